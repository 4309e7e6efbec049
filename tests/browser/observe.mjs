// Opens pages in a browser, does what a reader would do, and prints what it saw as JSON:
// node observe.mjs BROWSER PLAN.json, where the plan is a list of {name, file, mode, steps}.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf-8");
const [, , executablePath, plan] = process.argv;
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"] });

// What a deed leads to is drawn in the next frame, and what comes into view then is noticed in the one after.
const settle = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)))));
const DEEDS = new Set(["click", "fill", "select", "pick", "focus", "press", "hover", "back"]);

const rows = (page, table) => page.$$eval(`${table} tbody tr:not(.spacer)`, (lines) => lines.map((line) => [...line.cells].map((cell) => cell.innerText.replaceAll("\n", " "))));
const DO = {
  rows: (page, table) => rows(page, table),
  text: (page, at) => page.$eval(at, (node) => node.innerText),
  texts: (page, at) => page.$$eval(at, (nodes) => nodes.map((node) => node.innerText)),
  contents: (page, at) => page.$$eval(at, (nodes) => nodes.map((node) => node.textContent)), // out of sight too
  attribute: (page, at, name) => page.$eval(at, (node, name) => node.getAttribute(name), name),
  attributes: (page, at, name) => page.$$eval(at, (nodes, name) => nodes.map((node) => node.getAttribute(name)), name),
  count: (page, at) => page.$$eval(at, (nodes) => nodes.length),
  click: (page, at) => page.click(at),
  fill: (page, at, text) => page.fill(at, text),
  select: (page, at, label) => page.selectOption(at, { label }),
  pick: (page, at, value) => page.selectOption(at, value),
  focus: (page, at) => page.focus(at),
  press: (page, ...keys) => keys.reduce((before, key) => before.then(() => page.keyboard.press(key)), Promise.resolve()),
  focused: (page) => page.evaluate(() => document.activeElement.innerText),
  hover: (page, at) => page.hover(at),
  scroll: async (page) => {
    const height = await page.evaluate(() => document.documentElement.scrollHeight);
    for (let y = 0; y < height; y += 500) { await page.evaluate((at) => scrollTo(0, at), y); await settle(page); }
    await page.evaluate(() => scrollTo(0, 0));
    await settle(page);
  },
  scrollTable: (page, at, top) => page.$eval(at, (node, top) => { node.scrollTop = top; return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done()))); }, top),
  // What comes into view is drawn first, as it may move the button.
  download: async (page, at) => {
    await page.locator(at).first().scrollIntoViewIfNeeded();
    for (let turn = 0; turn < 3; turn += 1) await settle(page);
    const [file] = await Promise.all([page.waitForEvent("download"), page.click(at)]);
    return [file.suggestedFilename(), readFileSync(await file.path(), "utf-8")];
  },
  // Sections above are drawn on the way, and become higher or lower.
  scrollTo: async (page, at) => { for (let turn = 0; turn < 4; turn += 1) { await page.$eval(at, (node) => node.scrollIntoView()); await settle(page); } },
  place: (page, at) => page.$eval(at, (node) => { const box = node.getBoundingClientRect(); return [box.top, box.bottom]; }),
  value: (page, at) => page.$eval(at, (node) => node.value),
  address: (page) => page.evaluate(() => decodeURIComponent(location.hash)),
  back: (page) => page.goBack(),
  room: (page, at) => page.$eval(at, (node) => [node.scrollWidth, node.clientWidth]),
  width: (page) => page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]),
  wide: (page) => page.evaluate(() => [...document.querySelectorAll("main *")].filter((node) => node.getBoundingClientRect().right > innerWidth + 1 && !node.closest(".scroll, .pane, nav, .masks")).map((node) => node.outerHTML.slice(0, 120))),
  // Boxes that scroll sideways, and of each the columns that are out of sight and not named above it.
  sideways: (page) => page.evaluate(async () => {
    const found = [], painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())));
    for (const box of document.querySelectorAll(".scroll")) {
      box.scrollIntoView();
      await painted();
      if (!box.checkVisibility() || box.scrollWidth <= box.clientWidth + 1) continue;
      const said = box.previousElementSibling, told = said && said.checkVisibility() ? said.textContent : "", edge = box.getBoundingClientRect().right;
      const out = [...box.querySelectorAll("thead th")].filter((head) => head.getBoundingClientRect().right > edge + 4).map((head) => head.textContent.trim());
      found.push([box.getAttribute("aria-label"), out.length, out.filter((name) => !told.includes(name))]);
    }
    scrollTo(0, 0);
    return found;
  }),
  scrollAcross: (page, at) => page.$eval(at, (node) => { node.scrollLeft = node.scrollWidth; return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done()))); }),
  // Names in figures that a line passes through, by points along the drawn lines.
  struck: (page) => page.$$eval("section svg", (pictures) => pictures.flatMap((picture) => {
    const spots = [...picture.querySelectorAll(".line")].flatMap((line) => { const long = line.getTotalLength(); return Array.from({ length: 400 }, (_, at) => line.getPointAtLength((long * at) / 399)); });
    const names = [...picture.querySelectorAll(".word, .guide-word")].filter((name) => { const box = name.getBBox(); return spots.some(({ x, y }) => x > box.x + 2 && x < box.x + box.width - 2 && y > box.y + 3 && y < box.y + box.height - 3); });
    return names.map((name) => name.textContent);
  })),
  // Words of figures that reach beyond the picture.
  cutWords: (page) => page.$$eval("section svg[role=img]", (pictures) => pictures.flatMap((picture) => {
    const { x, y, width, height } = picture.viewBox.baseVal;
    return [...picture.querySelectorAll("text")].filter((text) => { const box = text.getBBox(); return box.x < x - 1 || box.y < y - 3 || box.x + box.width > x + width + 1 || box.y + box.height > y + height + 3; }).map((text) => text.textContent);
  })),
  // Keys of a legend that look alike.
  twins: (page) => page.$$eval(".legend", (legends) => legends.flatMap((legend) => {
    const looks = [...legend.querySelectorAll("svg")].map((key) => key.innerHTML);
    return [...legend.children].filter((key, place) => looks.indexOf(looks[place]) !== place).map((key) => key.textContent);
  })),
  // Placeholders that are wider than their field.
  cutPlaceholders: (page) => page.$$eval("input[placeholder]", (fields) => fields.filter((field) => {
    const style = getComputedStyle(field), ruler = document.createElement("canvas").getContext("2d");
    ruler.font = style.font;
    return ruler.measureText(field.placeholder).width > field.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 18;
  }).map((field) => field.placeholder)),
  tops: (page, at) => page.$$eval(at, (nodes) => [...new Set(nodes.map((node) => Math.round(node.getBoundingClientRect().bottom)))].length),
  play: (page, at) => page.$eval(at, async (film) => { await film.play(); const late = performance.now() + 60000; while ((film.readyState < 4 || film.currentTime === 0) && performance.now() < late) await new Promise((done) => setTimeout(done, 50)); return [film.readyState, film.currentTime > 0, film.videoWidth]; }),
  colours: (page, at, name) => page.$$eval(at, (nodes, name) => nodes.map((node) => getComputedStyle(node)[name]), name),
  axe: async (page) => {
    await page.evaluate(axe);
    return page.evaluate(async () => (await globalThis.axe.run(document, { resultTypes: ["violations"] })).violations.map((each) => `${each.id}: ${each.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`));
  },
  // How long a deed takes with the layout of the page after it, in milliseconds: the median of several.
  time: async (page, deed) => page.evaluate(async (deed) => {
    const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    const act = new Function("turn", `return (async () => { ${deed} })()`), taken = [];
    for (let turn = 0; turn < 7; turn += 1) {
      await painted();
      const began = performance.now();
      await act(turn);
      document.body.getBoundingClientRect();
      taken.push(performance.now() - began);
    }
    return taken.sort((a, b) => a - b)[3];
  }, deed),
};

const seen = {};
for (const { name, file, hash = "", mode = "", steps } of JSON.parse(readFileSync(plan, "utf-8"))) {
  const phone = mode.includes("phone");
  const context = await browser.newContext({
    viewport: phone ? { width: 390, height: 844 } : { width: 1280, height: 900 }, isMobile: phone, acceptDownloads: true,
    colorScheme: mode.includes("dark") ? "dark" : "light", javaScriptEnabled: !mode.includes("no script"), bypassCSP: steps.some(([what]) => what === "axe" || what === "time"),
  });
  context.setDefaultTimeout(120000); // of steps, on a busy machine
  const page = await context.newPage(), console_ = [], requests = [];
  page.on("console", (message) => console_.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => console_.push(`error: ${error.stack}`));
  page.on("dialog", (dialog) => { console_.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => { if (!/^(data|blob):/.test(request.url()) && request.url().split("#")[0] !== `file://${encodeURI(file)}`) requests.push(request.url()); });
  await page.goto(`file://${file}${hash}`);
  if (mode.includes("print")) await page.emulateMedia({ media: "print" });
  if (!mode.includes("no script")) await settle(page);
  const found = [];
  for (const [what, ...rest] of steps) {
    try {
      found.push((await DO[what](page, ...rest)) ?? null);
      if (DEEDS.has(what)) await settle(page);
    } catch (error) { found.push(`failed: ${what} ${rest}: ${error.message}`); }
  }
  seen[name] = { console: console_, requests, found };
  await context.close();
}
await browser.close();
console.log(JSON.stringify(seen));
