// A table that is wider than its box scrolls inside it; a line above names the columns that are out of sight.

function watchSideways(scroller) {
  const hint = el("p", { class: "sideways", "aria-hidden": "true", hidden: true });
  scroller.before(hint);
  const look = () => {
    const box = scroller.getBoundingClientRect(), heads = [...scroller.querySelectorAll("thead th")];
    const first = scroller.querySelector("tbody th"), pinned = first && getComputedStyle(first).position === "sticky" ? heads.shift().getBoundingClientRect().right : box.left;
    const named = (out) => heads.filter((head) => out(head.getBoundingClientRect())).map((head) => head.textContent.trim()).filter(Boolean).join(", ");
    const before = named((head) => head.left < pinned - 4), after = named((head) => head.right > box.right + 4);
    const wider = scroller.clientWidth > 0 && scroller.scrollWidth > scroller.clientWidth + 1;
    hint.hidden = !wider;
    hint.textContent = wider ? [before && `← ${before}`, after && `scroll for ${after} →`].filter(Boolean).join("   ") : "";
    scroller.classList.toggle("goes-on", wider && Boolean(after));
  };
  let left = 0;
  scroller.addEventListener("scroll", () => { if (scroller.scrollLeft !== left) { left = scroller.scrollLeft; look(); } }, { passive: true });
  const sizes = new ResizeObserver(look);
  sizes.observe(scroller);
  for (const table of scroller.querySelectorAll("table")) sizes.observe(table);
}
