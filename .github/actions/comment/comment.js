// Posts the result of a gate as a comment on the pull request that it was run for.
//
// The result comes from a run of the pull request's own code, which nobody has reviewed: only plain files are read, the
// text is shown in a fenced block, and the pull request is found by the commit that ran.
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
const UNFINISHED = ["red", "the gate did not come to its end"]; // it was killed, or a step before it failed
const FAILED = ["failure", "timed_out", "startup_failure"];
const SIGNS = { green: "✅", yellow: "⚠️", red: "❌" };
const LONGEST = 60000; // characters; GitHub refuses comments of more than 65,536
const MOST_BYTES = 4 * LONGEST;

/** Return the beginning of a file of the result as text, or null if it is missing or no plain file, as a link. */
function textOf(folder, name) {
  const place = path.join(folder, name);
  const about = fs.lstatSync(place, { throwIfNoEntry: false });
  if (!about || !about.isFile()) return null;
  const handle = fs.openSync(place, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW);
  try {
    const bytes = Buffer.alloc(Math.min(about.size, MOST_BYTES));
    return bytes.toString("utf8", 0, fs.readSync(handle, bytes, 0, bytes.length, 0));
  } finally {
    fs.closeSync(handle);
  }
}

/** Return the outcome and the printed text of a gate from the folder of its results. */
function readResult(folder) {
  const code = (textOf(folder, "exit-code") ?? "").trim();
  const outcome = Object.hasOwn(OUTCOMES, code) ? OUTCOMES[code] : UNFINISHED;
  return { outcome, text: textOf(folder, "gate.txt") ?? "" };
}

/** Return text in a fence that nothing within it can close. */
function fenced(text) {
  // Control characters and marks that reverse the direction of text can make a line look like another one.
  let shown = text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "�").replace(/`{20,}/g, "�");
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
function makeBody({ outcome, text }, { name, sha, url }) {
  const [colour, words] = outcome;
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
  const left = fs.existsSync(path.join(folder, "exit-code")) || FAILED.includes(run.conclusion);
  if (!left) {
    core.notice(`the run left no result of ${name} and ended as ${run.conclusion}: nothing to say`);
    return null;
  }
  const from = run.head_repository && run.head_repository.owner.login; // null if the fork was deleted
  const head = `${from}:${run.head_branch}`;
  const pulls = from ? await github.paginate(github.rest.pulls.list, { owner, repo, state: "open", head, per_page: 100 }) : [];
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
  const turnedRed = result.outcome[0] === "red" && last && colourOf(last.body, name) !== "red";
  if (last && !turnedRed) {
    await github.rest.issues.updateComment({ owner, repo, comment_id: last.id, body });
    return "edited";
  }
  await github.rest.issues.createComment({ ...issue, body });
  return "created";
}

module.exports = { comment, readResult, makeBody, fenced, colourOf };
