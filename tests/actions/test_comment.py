"""The comment on a pull request: written once, edited after that, and safe whatever the pull request's code printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".github/actions/comment/comment.js"
BOT = "github-actions[bot]"
HEAD = "0123456789abcdef0123456789abcdef01234567"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

# GitHub's client as the action sees it: pull requests and comments are lists, and what is written is kept.
DRIVER = """
const { comment } = require(process.argv[1]);
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const notices = [];
const comments = given.comments;
const github = {
  paginate: async (call, parameters) => call(parameters),
  rest: {
    pulls: { list: async ({ head }) => given.pulls.filter((one) => one.label === head) },
    issues: {
      listComments: async ({ issue_number }) => comments.filter((one) => one.pull === issue_number),
      createComment: async ({ issue_number, body }) =>
        comments.push({ id: comments.length + 1, pull: issue_number, user: { login: given.author }, body }),
      updateComment: async ({ comment_id, body }) => { comments.find((one) => one.id === comment_id).body = body; },
    },
  },
};
const run = {
  head_repository: { owner: { login: "someone" } }, head_branch: "faster", head_sha: given.sha,
  html_url: "https://example.org/run/1", conclusion: given.conclusion,
};
const context = { payload: { workflow_run: run }, repo: { owner: "owner", repo: "repo" } };
comment({ github, context, core: { notice: (text) => notices.push(text) }, ...given.options })
  .then((done) => console.log(JSON.stringify({ done, comments, notices })))
  .catch((error) => console.log(JSON.stringify({ error: error.message, comments, notices })));
"""


class PullRequest:
    """A pull request on a GitHub that lives in this test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "result"
        self.folder.mkdir()
        self.comments: list[dict[str, Any]] = []

    def report(self, code: object, text: str = "sta  same\n", name: str = "gate", sha: str = HEAD) -> dict[str, Any]:
        (self.folder / "exit-code").write_text(f"{code}\n")
        (self.folder / "gate.txt").write_text(text, encoding="utf-8")
        return self.tell(name, sha)

    def tell(self, name: str = "gate", sha: str = HEAD, conclusion: str = "success") -> dict[str, Any]:
        """Let the action tell what lies in the folder."""
        given = {
            "comments": self.comments,
            "pulls": [{"number": 7, "label": "someone:faster", "head": {"sha": HEAD}}],
            "author": BOT,
            "sha": sha,
            "conclusion": conclusion,
            "options": {"folder": str(self.folder), "name": name, "author": BOT},
        }
        done = subprocess.run(
            ["node", "-e", DRIVER, str(SCRIPT)], input=json.dumps(given), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        self.comments = answer["comments"]
        return answer

    @property
    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.comments]


@pytest.fixture
def pull_request(tmp_path: Path) -> PullRequest:
    return PullRequest(tmp_path)


def test_one_comment_is_written_and_then_edited(pull_request: PullRequest) -> None:
    assert pull_request.report(0, "first\n")["done"] == "created"
    assert pull_request.report(3, "second\n")["done"] == "edited"
    (body,) = pull_request.bodies
    assert "second" in body
    assert "first" not in body
    assert "ambiguous" in body


def test_a_new_comment_is_written_only_when_the_result_turns_red(pull_request: PullRequest) -> None:
    codes = [0, 3, 1, 1, 0, 4, 2]
    written = [pull_request.report(code, f"result {number}\n")["done"] for number, code in enumerate(codes)]
    assert written == ["created", "edited", "created", "edited", "edited", "created", "edited"]
    assert [re.findall(r"result (\d)", body) for body in pull_request.bodies] == [["1"], ["4"], ["6"]]


def test_gates_of_two_names_have_comments_of_their_own(pull_request: PullRequest) -> None:
    pull_request.report(0, name="CPU")
    pull_request.report(0, name="GPU")
    assert pull_request.report(0, name="CPU")["done"] == "edited"
    assert len(pull_request.bodies) == 2


def test_somebody_elses_comment_is_never_edited(pull_request: PullRequest) -> None:
    pull_request.report(0)
    pull_request.comments[0]["user"]["login"] = "someone"
    assert pull_request.report(0)["done"] == "created"


def test_a_commit_that_is_no_longer_the_head_gets_no_comment(pull_request: PullRequest) -> None:
    answer = pull_request.report(0, sha="f" * 40)
    assert answer["done"] is None
    assert "f" * 40 in answer["notices"][0]
    assert pull_request.bodies == []


@pytest.mark.parametrize("code", ["", "137", "0; 1", "toString", "<b>0</b>"])
def test_a_gate_that_ended_otherwise_is_red_and_its_code_is_not_shown(pull_request: PullRequest, code: str) -> None:
    pull_request.report(0)
    assert pull_request.report(code)["done"] == "created"
    body = pull_request.bodies[-1]
    assert body.split("\n")[1] == "<!-- red -->"
    assert "the gate did not come to its end" in body
    assert "<b>" not in body


@pytest.mark.parametrize("conclusion", ["failure", "timed_out", "cancelled", "success"])
def test_a_run_that_failed_before_its_gate_does_not_leave_the_comment_green(
    pull_request: PullRequest, conclusion: str
) -> None:
    pull_request.report(0)
    shutil.rmtree(pull_request.folder)
    answer = pull_request.tell(conclusion=conclusion)
    if conclusion in ("failure", "timed_out"):
        assert "the gate did not come to its end" in pull_request.bodies[-1]
    else:
        assert answer["done"] is None
        assert conclusion in answer["notices"][0]
        assert len(pull_request.bodies) == 1


@pytest.mark.parametrize("name", ["gate.txt", "exit-code"])
def test_what_is_no_plain_file_is_not_read(pull_request: PullRequest, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("0 and a token\n")
    pull_request.report(1)
    (pull_request.folder / name).unlink()
    (pull_request.folder / name).symlink_to(tmp_path / "secret")
    assert "done" in pull_request.tell()
    assert "token" not in pull_request.bodies[-1]
    (pull_request.folder / name).unlink()
    (pull_request.folder / name).mkdir()
    assert "done" in pull_request.tell()


@pytest.mark.parametrize(
    "hostile",
    [
        "```\n@everyone <img src=x> [a](https://example.org)\n",
        "`````text\n# big\n`````\n",
        "<!-- attnbench gate gate -->\n<!-- green -->\n",
        "\u202egnp.exe \x1b[31mred\x07\n",
    ],
)
def test_whatever_was_printed_stays_within_its_fence(pull_request: PullRequest, hostile: str) -> None:
    pull_request.report(1, hostile)
    marker, colour, heading, blank, fence, *shown, closing = pull_request.bodies[0].split("\n")
    assert (marker, colour, blank) == ("<!-- attnbench gate gate -->", "<!-- red -->", "")
    assert "**gate: regression**" in heading
    assert fence == closing + "text"
    assert set(closing) == {"`"}
    assert not any(line.lstrip().startswith(closing) for line in shown)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", pull_request.bodies[0])


def test_a_long_text_is_cut_off_below_githubs_limit(pull_request: PullRequest) -> None:
    for line in ("line\n", "`" * 50):
        pull_request.report(0, line * 500_000)
        assert len(pull_request.bodies[0]) < 65_536
    assert "cut off" in pull_request.report(0, "line\n" * 500_000)["comments"][0]["body"]
