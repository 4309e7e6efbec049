// Posts the result of a gate as a comment on the pull request that it was run for.
//
// The result comes from a run of the pull request's own code, which nobody has reviewed: its text is shown in a fenced
// block, its exit code must be one that `attnbench gate` has, and the pull request is found by the commit that ran.
"use strict";

const fs = require("fs");
const path = require("path");

const OUTCOMES = {
  0: ["green", "no regression"],
  1: ["red", "regression"],
  2: ["red", "the gate could not run: bad input"],
  3: ["yellow", "ambiguous"],
  4: ["red", "nothing could be compared"],
};
const SIGNS = { green: "✅", yellow: "⚠️", red: "❌" };
const LONGEST = 60000; // characters; GitHub refuses comments of more than 65,536

/** Return the exit code and the printed text of a gate from the folder of its results. */
function readResult(folder) {
  const code = fs.readFileSync(path.join(folder, "exit-code"), "utf8").trim();
  if (!Object.hasOwn(OUTCOMES, code)) throw new Error(`exit-code is ${JSON.stringify(code.slice(0, 80))}; a gate has 0, 1, 2, 3 or 4`);
  return { code: Number(code), text: fs.readFileSync(path.join(folder, "gate.txt"), "utf8") };
}

/** Return text in a fence that nothing within it can close. */
function fenced(text) {
  // Control characters and marks that reverse the direction of text can make a line look like another one.
  let shown = text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "�");
  if (shown.length > LONGEST) shown = `${shown.slice(0, LONGEST)}\n… cut off: the whole text is in the run`;
  const longest = Math.max(2, ...(shown.match(/`+/g) || []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}text\n${shown.replace(/\n+$/, "")}\n${fence}`;
}

const marker = (name) => `<!-- attnbench gate ${name.replace(/[^\w .-]/g, "_")} -->`;

/** Return the colour that a comment of this gate shows, or null if the comment is another one. */
function colourOf(body, name) {
  const [first, second] = (body || "").split("\n");
  if (first !== marker(name)) return null;
  const found = /^<!-- (green|yellow|red) -->$/.exec(second || "");
  return found && found[1];
}

/** Return the comment's text. */
function makeBody({ code, text }, { name, sha, url }) {
  const [colour, words] = OUTCOMES[code];
  return [
    marker(name),
    `<!-- ${colour} -->`,
    `${SIGNS[colour]} **${name}: ${words}** at ${sha.slice(0, 12)} ([run](${url}))`,
    "",
    fenced(text),
  ].join("\n");
}

/** Write the comment: the last one of this gate is edited, unless the result has turned red. */
async function comment({ github, context, core, folder, name, author }) {
  const run = context.payload.workflow_run;
  const { owner, repo } = context.repo;
  const head = `${run.head_repository.owner.login}:${run.head_branch}`;
  const pulls = await github.paginate(github.rest.pulls.list, { owner, repo, state: "open", head, per_page: 100 });
  const pull = pulls.find((one) => one.head.sha === run.head_sha);
  if (!pull) {
    core.notice(`no open pull request has ${run.head_sha} as its head: nothing to comment on`);
    return null;
  }
  const result = readResult(folder);
  const body = makeBody(result, { name, sha: run.head_sha, url: run.html_url });
  const issue = { owner, repo, issue_number: pull.number };
  const comments = await github.paginate(github.rest.issues.listComments, { ...issue, per_page: 100 });
  const ours = comments.filter((one) => one.user && one.user.login === author && colourOf(one.body, name));
  const last = ours[ours.length - 1];
  const turnedRed = OUTCOMES[result.code][0] === "red" && last && colourOf(last.body, name) !== "red";
  if (last && !turnedRed) {
    await github.rest.issues.updateComment({ owner, repo, comment_id: last.id, body });
    return "edited";
  }
  await github.rest.issues.createComment({ ...issue, body });
  return "created";
}

module.exports = { comment, readResult, makeBody, fenced, colourOf };
