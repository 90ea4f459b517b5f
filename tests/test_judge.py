"""Win rates: what is asked, of whom, at what cost, what is kept, and what the verdicts come to."""

import hashlib
import inspect
import json
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest
import yaml
from hydra.utils import get_object
from test_main import TINY

import esolab.judge.__main__ as door
from esolab import endpoint
from esolab.config import CONF, build, resolve
from esolab.corpora.alpaca import alpaca
from esolab.endpoint import Endpoint, Trouble
from esolab.errors import BadInput
from esolab.judge import judges
from esolab.judge.__main__ import as_composed, main
from esolab.judge.client import ask_all
from esolab.judge.log import kept, key_of
from esolab.judge.log import read as read_log
from esolab.judge.pairs import Pair, Pairs, Rows, read_pairs
from esolab.judge.preference import Preference
from esolab.judge.question import Question, parse, questions
from esolab.judge.verdicts import Item, agreement, summarise
from esolab.metrics import score

KEY = 'sk-"secret\\/4711'  # with what JSON has to escape
N = 20
Reply = tuple[Any, ...]  # status; a body: JSON, or bytes as they are; headers


class Server:
    """An OpenAI-compatible endpoint on loopback. `respond(n, first, second)` answers its n-th request."""

    def __init__(self, respond: Callable[[int, str, str], str | Reply]) -> None:
        self.answered: list[str] = []  # prompts, once each time they were answered
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        lock, server = Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][0]["content"]
                with lock:
                    server.bodies.append(body)
                    server.headers.append({**self.headers, "path": self.path})
                    n = len(server.bodies)
                said = respond(n, *shown(prompt))
                status, reply, *headers = (200, completion(said)) if isinstance(said, str) else said
                if status == 200:
                    server.answered.append(prompt)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers[0].items() if headers else ():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.inner = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.inner.handle_error = lambda *args: None  # a client that has gone away is meant to
        self.url = f"http://127.0.0.1:{self.inner.server_address[1]}/v1"
        Thread(target=self.inner.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.inner.shutdown()
        self.inner.server_close()


def completion(text: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"prompt_tokens": 5}}


def shown(prompt: str) -> tuple[str, str]:
    found = re.search(r"Response A:\n(.*)\n\nResponse B:\n(.*)\n\nBegin", prompt, re.DOTALL)
    assert found is not None
    return found[1], found[2]


def says(letter: str) -> str:
    return f"Comparison: one of them says more.\nMore helpful: {letter}"


def worth(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)


def fair(n: int, first: str, second: str) -> str:
    """Looks at the texts alone, so that the order does not matter."""
    return says("A" if worth(first) > worth(second) else "B")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    servers: list[Server] = []

    def make(respond: Callable[[int, str, str], str | Reply] = fair) -> Server:
        servers.append(Server(respond))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def line(i: int, text: str, **other: str) -> dict[str, str]:
    row = {"id": f"p{i}", "data": "hh", "decoding": "sample", "prompt": f"Prompt {i}?", "reference": f" right {i}"}
    return {**row, "prediction": text, **other}


def write(folder: Path, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with two runs of twenty prompts, named as runs are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write(tmp_path / "runs" / "method=eso,seed=1-aa", [line(i, f"the answer {i} is right") for i in range(N)])
    write(tmp_path / "runs" / "method=sft-bb", [line(i, f"it is {i}") for i in reversed(range(N))])
    return tmp_path


A, B = "a=runs/method=eso,seed=1-aa", "b=runs/method=sft-bb"
X = "judge.model=x"
METHODS = ("dpo", "eso", "ppo", "sft")  # of figure 2


def asking(server: Server, *more: str) -> list[str]:
    return [A, B, "judge.model=gpt-x", f"judge.base_url={server.url}", "judge.backoff=0.0", *more]


@pytest.fixture
def ask(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], Path]]:
    """ask(*arguments): the result of a judgement that succeeds, without `how`, which holds the port; and its folder."""

    def run(*arguments: str) -> tuple[dict[str, Any], Path]:
        capsys.readouterr()
        code = main(list(arguments))
        out, err = capsys.readouterr()
        assert code == 0, err
        folder = Path(out.splitlines()[-1])
        result = json.loads((folder / "result.json").read_text())
        assert re.fullmatch("[0-9a-f]{8}", result.pop("how"))
        return result, folder

    return run


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(*arguments): the one message of a command that fails with exit code 2."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("esolab:") == 1
        assert "Traceback" not in err
        return err[err.index("esolab:") :]

    return run


def lines(folder: Path, name: str = "judgements.jsonl") -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / name).read_text().splitlines()]


def expected_wins() -> int:
    return sum(worth(f"the answer {i} is right") > worth(f"it is {i}") for i in range(N))


# the question


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Comparison: A is clear.\nMore helpful: A", "first"),
        ("Comparison: B is clear.\nMore helpful: B\n", "second"),
        ("**Comparison:** x\n**More helpful:** **B**.", "second"),
        ('More helpful: "A"', "first"),
        ("I would not say More helpful: A. On reflection:\nMore helpful: B", "second"),
        ("More helpful: A or B", "invalid"),
        ("More helpful: Response A", "invalid"),
        ("More helpful: A\nBut B is good, too", "invalid"),
        ("More helpful: tie", "invalid"),
        ("More helpful: a", "invalid"),
        ("More helpful:", "invalid"),
        ("A", "invalid"),
        ("I think that the first response helps more.", "invalid"),
        ("", "invalid"),
    ],
)
def test_only_a_letter_after_the_last_key_counts(reply: str, verdict: str) -> None:
    assert parse(reply) == verdict


def test_the_question_shows_both_answers_in_its_order_and_asks_for_a_comparison_first() -> None:
    pair = Pair("x", "Why {so}?", "r", "text of a", "text of b")
    for swapped, texts in ((False, ("text of a", "text of b")), (True, ("text of b", "text of a"))):
        question = Question(pair, swapped)
        [message] = question.messages()
        assert message["role"] == "user"
        assert "Query:\nWhy {so}?\n" in message["content"]
        assert shown(message["content"]) == texts
        assert message["content"].index("Comparison:") < message["content"].index("More helpful:")
        assert question.winner("first") == texts[0][-1]
        assert question.winner("second") == texts[1][-1]
        assert [question.winner(v) for v in ("tie", "invalid")] == ["tie", "invalid"]


def test_the_alpaca_form_of_a_prompt_is_not_shown() -> None:
    for made, query in (
        (alpaca("Human: Why?\n\nAssistant:", "", "r"), "Human: Why?\n\nAssistant:"),
        (alpaca("Shorten this.", "A long text.", "r"), "Shorten this.\n\nA long text."),
    ):
        [message] = Question(Pair("x", made.prompt, "r", "one", "two"), False).messages()
        assert f"Query:\n{query}\n\nResponse A:" in message["content"]


def test_the_order_hangs_on_seed_and_id_alone() -> None:
    pairs = [Pair(f"p{i}", "q", "r", "a", "b") for i in range(400)]
    drawn = {q.pair.id: q.swapped for [q] in questions(pairs, 0, both=False)}
    assert {q.pair.id: q.swapped for [q] in questions(pairs[::-3], 0, both=False)}.items() <= drawn.items()
    assert 150 < sum(drawn.values()) < 250
    assert 150 < sum(drawn[q.pair.id] != q.swapped for [q] in questions(pairs, 1, both=False)) < 250
    for one, other in questions(pairs, 0, both=True):
        assert one.swapped == drawn[one.pair.id] != other.swapped


# the pairs


def test_pairs_are_of_one_corpus_and_decoding_by_id(here: Path) -> None:
    kinds = [(d, h, i) for d in ("hh", "x") for h in ("greedy", "sample") for i in range(3)]
    rows = [line(i, f"{d}{h}{i}", data=d, decoding=h) for d, h, i in kinds]
    a, b = write(here / "a", rows), write(here / "b", rows[::-1])
    found = read_pairs(str(a), str(b), Rows(data="x"))
    assert (found.data, found.decoding) == ("x", "sample")
    texts = [f"xsample{i}" for i in range(3)]
    assert [(pair.id, pair.a, pair.b) for pair in found.pairs] == [
        (f"p{i}", text, text) for i, text in enumerate(texts)
    ]
    found = read_pairs(str(a), "chosen", Rows(data="hh", decoding="greedy", limit=2))
    assert [(pair.a, pair.b) for pair in found.pairs] == [("hhgreedy0", "right 0"), ("hhgreedy1", "right 1")]
    only = write(here / "only", [line(0, "t", decoding="top5")])
    assert read_pairs(str(only), "chosen", Rows()).decoding == "top5"
    assert found.fingerprint() != read_pairs(str(a), "chosen", Rows("hh", "greedy", 1)).fingerprint()
    first = read_pairs(str(a), str(b), Rows("hh", limit=2)).pairs  # a's first two, wherever they stand in b
    assert [pair.id for pair in first] == ["p0", "p1"]
    few = write(here / "few", rows[:2])
    assert len(read_pairs(str(few), str(a), Rows("hh", "greedy", 2)).pairs) == 2
    with pytest.raises(BadInput, match=r"'p2' is in b=.* alone; give limit=2, or runs"):
        read_pairs(str(few), str(a), Rows("hh", "greedy"))


def test_runs_that_cannot_be_paired_are_refused_with_the_way_out(here: Path) -> None:
    good = [line(i, "text") for i in range(4)]
    a = str(write(here / "a", good))
    two = str(write(here / "two", [*good, line(0, "t", data="xsum")]))
    cases = {
        (str(here / "no"), "chosen"): r"a=.*no: cannot read its predictions.jsonl \(No such file.*give the folder of",
        (str(write(here / "empty", [])), "chosen"): "a=.*empty: its predictions.jsonl is empty; give",
        (two, "chosen"): "a=.*two: answered hh, xsum; give data=NAME, one of them",
        (a, str(write(here / "few", good[:3]))): "a=.* has 4 prompts, b=.* 3, 'p3' is in a=.* alone; give limit=3",
        (a, str(write(here / "other", [*good[:3], line(9, "t")]))): "'p3' is in a=.* alone; give runs that answered",
        (a, str(write(here / "form", [*good[:3], line(3, "t", prompt="No?")]))): "b=.*form: prompt 'p3' is not that",
        (a, str(write(here / "how", [line(0, "t", decoding="greedy")]))): "b=.*how: no answers with decoding=sample",
        (str(write(here / "twice", [*good, line(0, "t")])), "chosen"): "a=.*twice: the same id more than once among 5",
        (str(write(here / "bad", [good[0], {"id": "x"}])), "chosen"): "a=.*bad: line 2 .* .no 'decoding'.; repeat",
        (str(write(here / "none", [{**good[0], "prediction": None}])), "chosen"): "line 1 .*no text: None",
        (str(write(here / "scored", [{"decoding": "preference"}])), "chosen"): "a=.*scored: holds no answers, a reward",
    }
    for (a, b), message in cases.items():
        with pytest.raises(BadInput, match=message):
            read_pairs(a, b, Rows())
    with pytest.raises(BadInput, match="no answers with data=dolly; give data=NAME, one of hh, xsum"):
        read_pairs(two, "chosen", Rows(data="dolly"))
    (here / "a" / "predictions.jsonl").write_bytes(b'{"id": "\xff')
    with pytest.raises(BadInput, match=r"line 1 of its .* is damaged"):
        read_pairs(str(here / "a"), "chosen", Rows())


# a judgement


def test_a_judgement_counts_who_wins_whatever_the_order(
    serve: Callable[..., Server], ask: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    result, folder = ask(*asking(server))
    wins = expected_wins()
    assert 0 < wins < N
    assert {key: result[key] for key in ("n", "wins", "losses", "ties", "invalid")} == {
        "n": N, "wins": wins, "losses": N - wins, "ties": 0, "invalid": 0,
    }  # fmt: skip
    assert result["win_rate"] == result["wins_per_n"] == wins / N
    assert result["win_rate_95"][0] < result["win_rate"] < result["win_rate_95"][1]
    assert (result["words_a"], result["words_b"], result["flips"]) == (5, 3, None)
    assert folder.parent == Path("outputs/judge")
    assert re.fullmatch(r"method=eso,seed=1-aa-vs-method=sft-bb-[0-9a-f]{8}", folder.name)
    rows = lines(folder)
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(N)]
    assert {order for row in rows for order in row["orders"]} == {"ab", "ba"}
    assert rows[0].keys() == {"id", "orders", "verdicts", "verdict", "words_a", "words_b"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["judge"]["model"] == "gpt-x"
    assert len(server.answered) == N
    assert all(body["temperature"] == 0 and body["model"] == "gpt-x" for body in server.bodies)
    assert all(h["Authorization"] == f"Bearer {KEY}" and h["path"] == "/v1/chat/completions" for h in server.headers)
    both, _ = ask(*asking(server, "orders=both"))
    assert (both["wins"], both["losses"], both["flips"]) == (wins, N - wins, 0)
    assert len(server.answered) == N + 2 * N  # another judgement, another log


def test_the_table_says_what_the_result_says(
    serve: Callable[..., Server], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asking(serve(lambda n, first, second: says("A")), "orders=both")) == 0
    out = capsys.readouterr().out
    assert "against runs/method=sft-bb: 20 prompts of hh, sample" in out
    for row in ("ties.*20", "win rate, ties as half, of valid.*50.00%", "29.93% to 70.07%", "flip.*100.00%"):
        assert re.search(row, out), row


def test_there_is_no_rate_at_equal_lengths_where_one_side_is_always_longer(
    serve: Callable[..., Server], ask: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command = asking(serve())
    assert ask(*command)[0]["length_controlled"] is None
    assert main(command) == 0
    assert re.search("equal lengths.*none: one side is always longer", capsys.readouterr().out)


def test_a_judge_of_the_first_place_flips_everywhere(serve: Callable[..., Server], ask: Callable[..., Any]) -> None:
    result, folder = ask(*asking(serve(lambda n, first, second: says("A")), "orders=both"))
    assert (result["ties"], result["wins"], result["losses"], result["flips"]) == (N, 0, 0, 1)
    assert result["win_rate"] == 0.5
    assert all(sorted(row["verdicts"]) == ["a", "b"] and row["verdict"] == "tie" for row in lines(folder))


def test_prose_is_invalid_and_left_out_of_the_rate(serve: Callable[..., Server], ask: Callable[..., Any]) -> None:
    def respond(n: int, first: str, second: str) -> str:
        i = int(re.findall(r"\d+", first)[0])
        if i < 5:
            return "Both have their merits, though I lean to the first one."
        return says("A" if first.startswith("the") == (i < 15) else "B")

    result, _ = ask(*asking(serve(respond)))
    assert (result["invalid"], result["wins"], result["losses"]) == (5, 10, 5)
    assert result["win_rate"] == pytest.approx(10 / 15)
    assert result["wins_per_n"] == 10 / 20


def test_a_refusal_without_text_is_invalid_and_not_asked_again(
    serve: Callable[..., Server], ask: Callable[..., Any]
) -> None:
    server = serve(lambda n, first, second: (200, completion(None)))
    result, _ = ask(*asking(server))
    assert (result["invalid"], result["win_rate"], result["length_controlled"]) == (N, None, None)
    ask(*asking(server))
    assert len(server.answered) == N


def test_a_judge_of_length_has_a_length_controlled_rate_near_one_half(
    here: Path, serve: Callable[..., Server], ask: Callable[..., Any]
) -> None:
    many = range(60)
    write(here / "long", [line(i, " ".join(["word"] * (12 + 7 * i % 23))) for i in many])
    write(here / "short", [line(i, " ".join(["term"] * (8 + 11 * i % 19))) for i in many])
    server = serve(lambda n, first, second: says("A" if len(first.split()) >= len(second.split()) else "B"))
    result, _ = ask(*asking(server, "a=long", "b=short"))
    assert result["win_rate"] > 0.7
    assert result["length_controlled"] == pytest.approx(0.5, abs=0.1)
    assert result["words_a"] > result["words_b"]


# what is kept


def test_a_judgement_that_was_stopped_goes_on_and_ends_like_one_that_was_not(
    serve: Callable[..., Server],
    ask: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped after seven replies, one request in five failing before and after."""
    gate = Event()

    def faulty(n: int, first: str, second: str) -> str | Reply:
        if n > 12:
            assert gate.wait(30)
        return (503, b"overloaded") if n % 5 == 0 else fair(n, first, second)

    class Telling(Event):
        def set(self) -> None:
            super().set()
            gate.set()

    def stopped(place: Any, bodies: Any, keep: Any, concurrency: int, tick: Any, answers: bool) -> Any:
        ticks = iter(range(6))

        def seven() -> None:
            if next(ticks, None) is None:
                raise KeyboardInterrupt

        return ask_all(place, bodies, keep, concurrency, seven, answers)

    undisturbed, whole = ask(*asking(serve(), "orders=both", "outputs=whole"))
    server = serve(faulty)
    command = asking(server, "orders=both", "judge.concurrency=3")
    with monkeypatch.context() as patched:
        patched.setattr(endpoint, "Event", Telling)
        patched.setattr(judges, "ask_all", stopped)
        assert main(command) == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on from the replies that came\n")
    [log] = Path("outputs").rglob("requests.jsonl")
    before = len(log.read_text().splitlines())
    assert 7 <= before == len(server.answered) < 2 * N
    assert not (log.parent / "result.json").exists()
    result, folder = ask(*command)
    assert folder == log.parent
    assert result == undisturbed
    assert (folder / "judgements.jsonl").read_text() == (whole / "judgements.jsonl").read_text()
    assert set(Counter(server.answered).values()) == {1}
    assert len(server.bodies) > len(server.answered) == 2 * N


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_was_killed_goes_on_and_ends_like_one_that_was_not(
    how: signal.Signals, serve: Callable[..., Server], ask: Callable[..., Any]
) -> None:
    """Killed after nine replies of forty, one request in five failing. All that is asked again is what was under way at
    a SIGKILL: nobody can know the reply."""
    nine = Event()

    def faulty(n: int, first: str, second: str) -> str | Reply:
        if n == 12:
            nine.set()
            assert again.wait(30)
        return (503, b"overloaded") if n % 5 == 0 else fair(n, first, second)

    again = Event()
    undisturbed, whole = ask(*asking(serve(), "orders=both", "outputs=whole"))
    server = serve(faulty)
    command = asking(server, "orders=both", "judge.concurrency=2")
    process = subprocess.Popen([sys.executable, "-m", "esolab.judge", *command], stderr=subprocess.PIPE, text=True)
    assert nine.wait(60)
    process.send_signal(how)
    if how is signal.SIGTERM:
        again.set()
    said, code = process.communicate(timeout=60)[1], process.returncode
    again.set()
    if how is signal.SIGTERM:
        assert (code, said.splitlines()[-1]) == (130, "stopped; the same command goes on from the replies that came")
    result, folder = ask(*command)
    assert result == undisturbed
    assert (folder / "judgements.jsonl").read_text() == (whole / "judgements.jsonl").read_text()
    times = Counter(server.answered)
    assert len(times) == 2 * N
    assert sum(times.values()) - 2 * N <= (0 if how is signal.SIGTERM else 2)


def test_a_torn_last_line_alone_is_asked_again(serve: Callable[..., Server], ask: Callable[..., Any]) -> None:
    server = serve()
    result, folder = ask(*asking(server))
    log = folder / "requests.jsonl"
    text = log.read_bytes()
    for cut in (1, 40, len(text.splitlines()[-1])):
        log.write_bytes(text[:-cut])
        before = len(server.answered)
        assert ask(*asking(server))[0] == result
        assert len(server.answered) == before + 1
        assert log.read_bytes().startswith(text[: text.rstrip().rfind(b"\n")])
        assert len(lines(folder, "requests.jsonl")) == N


def test_the_log_has_each_request_with_its_reply_by_key(serve: Callable[..., Server], ask: Callable[..., Any]) -> None:
    server = serve()
    _, folder = ask(*asking(server))
    for row in lines(folder, "requests.jsonl"):
        assert row.keys() == {"key", "base_url", "body", "response"}
        assert row["body"] in server.bodies
        assert row["key"] == key_of(server.url, row["body"])
        assert row["response"] == completion(fair(0, *shown(row["body"]["messages"][0]["content"])))


def test_parameters_are_sent_as_they_are_and_others_are_another_request(
    serve: Callable[..., Server], ask: Callable[..., Any], refused: Callable[..., str]
) -> None:
    server = serve()
    command = asking(server, "judge.log=all.jsonl")
    thinking = [
        "~judge.parameters.temperature",
        "~judge.parameters.max_tokens",
        "judge.parameters.max_completion_tokens=9",
    ]
    ask(*command)
    ask(*command, *thinking)
    ask(*command, *thinking)
    sent = [{key: value for key, value in body.items() if key != "messages"} for body in server.bodies]
    plain = {"model": "gpt-x", "temperature": 0, "max_tokens": 200}
    assert sent == [plain] * N + [{"model": "gpt-x", "max_completion_tokens": 9}] * N
    said = refused(A, B, "judge=replay", "judge.log=all.jsonl")
    assert 'with {"temperature": 0, "max_tokens": 200}' in said
    assert "judge.parameters={KEY:VALUE}, one of them" in said
    assert ask(A, B, "judge=replay", "judge.log=all.jsonl", "judge.parameters={max_completion_tokens:9}")[0]["n"] == N
    price = ["judge.price=[1.0,2.0]", "judge.max_cost=1.0", "~judge.parameters.max_tokens"]
    assert "judge.max_cost=1: needs a limit of replies" in refused(*command, *price)
    assert "judge.parameters.messages: is sent anyway" in refused(*command, "judge.parameters.messages=[]")


def test_a_replay_needs_no_network(
    serve: Callable[..., Server], ask: Callable[..., Any], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = ask(*asking(serve(), "orders=both"))
    log = folder / "requests.jsonl"
    text = log.read_bytes()

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a replay connects to nothing")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.delenv("OPENAI_API_KEY")
    replay = [A, B, "judge=replay", f"judge.log={log}"]
    again, _ = ask(*replay, "orders=both")
    assert {**again, "judge": "gpt-x"} == result
    assert ask(*replay)[0]["n"] == N  # the one order is among both
    log.write_bytes(text[:-9])
    assert "has no reply to 1 of 40 questions; ask them with judge=openai" in refused(*replay, "orders=both")
    assert log.read_bytes() == text[:-9]  # a replay leaves it as it is


def test_a_log_of_several_judges_needs_the_name_of_one(
    serve: Callable[..., Server], ask: Callable[..., Any], refused: Callable[..., str]
) -> None:
    server = serve()
    result, _ = ask(*asking(server, "judge.log=all.jsonl"))
    ask(*asking(server, "judge.log=all.jsonl", "judge.model=gpt-y"))
    replay = [A, B, "judge=replay", "judge.log=all.jsonl"]
    assert re.search(
        f"has gpt-x at {server.url} with .*, gpt-y at {server.url} with .*; give judge.model=N", refused(*replay)
    )
    again, _ = ask(*replay, "judge.model=gpt-x", f"judge.base_url={server.url}/")
    assert again["wins"] == result["wins"]


def test_what_is_no_log_is_refused_and_left_as_it_is(here: Path) -> None:
    row = json.dumps({"key": "k", "base_url": "u", "body": {"model": "m"}, "response": completion("x")})
    for text, message in (
        ("hello", "is no log of requests"),
        (f"{row}\n{{}}\n{row}\n", "line 2 is damaged .no 'response'."),
        (f"{row}\nhello\n", "line 2 is damaged"),
        ('{"key": "k", "response": {"choices": [1]}}\n', "line 1 is damaged .a choice without a message"),
        ("[1]\n", "line 1 is damaged"),
    ):
        (here / "log").write_text(text)
        with pytest.raises(BadInput, match=message), kept(here / "log"):
            pass
        with pytest.raises(BadInput, match=message):
            read_log(here / "log")
        assert (here / "log").read_text() == text
    with pytest.raises(BadInput, match="another process writes it"), kept(here / "l"), kept(here / "l"):
        pass
    with pytest.raises(BadInput, match="Is a directory"), kept(here):
        pass
    with pytest.raises(BadInput, match="No such file"):
        read_log(here / "no")


# an endpoint with faults


BODY = {"messages": Question(Pair("x", "q", "r", "one", "two"), False).messages()}


class Noting(Event):
    """An event that nobody waits for: what would be waited is noted, and the last of `waits` sets it."""

    def __init__(self, waits: int = 99) -> None:
        super().__init__()
        self.seconds: list[float | None] = []
        self.waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        if len(self.seconds) == self.waits:
            self.set()
        return self.is_set()


def test_back_off_doubles_up_to_a_minute_and_heeds_the_endpoint(serve: Callable[..., Server]) -> None:
    server, stop = serve(lambda n, first, second: (503, b"busy") if n < 9 else fair(n, first, second)), Noting()
    assert json.loads(Endpoint("", server.url, None, 10.0, 8, 1.0).post(BODY, stop)) == completion(
        fair(0, "one", "two")
    )
    assert stop.seconds == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "Authorization" not in server.headers[0]
    busy, stop = serve(lambda *_: (503, b"busy")), Noting()
    with pytest.raises(Trouble, match="status 503, 'busy'"):
        Endpoint("", busy.url, None, 10.0, 2, 1.0).post(BODY, stop)
    assert (stop.seconds, len(busy.bodies)) == ([1, 2], 3)


@pytest.mark.parametrize(("waits", "posts"), [(0, 1), (1, 1), (2, 2)])
def test_nothing_is_posted_once_it_is_stopped(serve: Callable[..., Server], waits: int, posts: int) -> None:
    """Stopped before a wait, and within one."""
    busy, stop = serve(lambda *_: (503, b"busy")), Noting(waits)
    if not waits:
        stop.set()
    with pytest.raises(Trouble, match="status 503, 'busy'"):
        Endpoint("", busy.url, None, 10.0, 5, 1.0).post(BODY, stop)
    assert (len(stop.seconds), len(busy.bodies)) == (waits, posts)


def test_retry_after_is_waited_for(serve: Callable[..., Server]) -> None:
    asks, stop = {1: "7", 2: "tomorrow", 3: "1"}, Noting()
    server = serve(lambda n, *texts: (429, b"", {"Retry-After": asks[n]}) if n in asks else fair(n, *texts))
    Endpoint("", server.url, None, 10.0, 5, 1.0).post(BODY, stop)
    assert stop.seconds == [7, 2, 4]


@pytest.mark.parametrize(
    ("reply", "message", "tries"),
    [
        ((429, {"error": "slow down"}), 'it answers with status 429, \'{"error": "slow down"}\'', 3),
        ((500, b"oops"), "it answers with status 500, 'oops'", 3),
        ((401, b"who are you?"), "it answers with status 401, 'who are you?'", 1),
        ((404, b"no such model"), "it answers with status 404, 'no such model'", 1),
        ((302, b"", {"Location": "/elsewhere"}), "it answers with status 302, ''", 1),
        ((200, b"<html>\n hello"), "its reply is no JSON, '<html> hello'", 1),
        ((200, {"error": "x"}), 'its reply has no list of choices, \'{"error": "x"}\'', 1),
        ((200, [1]), "its reply has no list of choices, '[1]'", 1),
        ((200, {"choices": [{"text": "A"}]}), "its reply has a choice without a message of text", 1),
        ((200, {"choices": [{"message": {"content": [1]}}]}), "its reply has a choice without a message of text", 1),
    ],
)
def test_an_endpoint_that_does_not_answer_is_one_message(
    serve: Callable[..., Server], refused: Callable[..., str], reply: Reply, message: str, tries: int
) -> None:
    server = serve(lambda *_: reply)
    said = refused(*asking(server, "judge.retries=2", "judge.concurrency=1"))
    assert said.startswith(f"esolab: judge.base_url={server.url}: ")
    assert len(said.splitlines()) == 1
    assert message in said
    assert "0 replies came and are kept, the same command asks the other 20" in said
    assert len(server.bodies) == 3 * tries  # three in a row are enough
    assert list(Path("outputs").rglob("result.json")) == []


def test_an_endpoint_that_is_down_or_slow(serve: Callable[..., Server], refused: Callable[..., str]) -> None:
    server = serve()
    server.close()
    assert "it cannot be reached ([Errno 111] Connection refused)" in refused(*asking(server, "judge.retries=1"))
    release = Event()

    def slow(n: int, first: str, second: str) -> str | Reply:
        release.wait(30)
        return 500, b""

    said = refused(*asking(serve(slow), "judge.retries=0", "judge.timeout=0.05", "judge.concurrency=1"))
    release.set()
    assert "no reply within 0.05 s" in said


@pytest.mark.parametrize(
    "refusal", [(400, b"content_filter"), (413, b""), (422, b"too long"), (200, {"choices": []})], ids=lambda r: r[0]
)
def test_a_request_that_is_refused_is_invalid_and_not_asked_again(
    serve: Callable[..., Server], ask: Callable[..., Any], refusal: Reply
) -> None:
    def respond(n: int, first: str, second: str) -> str | Reply:
        return refusal if "answer 3 " in first + second else fair(n, first, second)

    server = serve(respond)
    result, folder = ask(*asking(server))
    assert (result["n"], result["invalid"]) == (N, 1)
    assert [row["verdict"] for row in lines(folder)].index("invalid") == 3
    [kept] = [row["response"] for row in lines(folder, "requests.jsonl") if not row["response"]["choices"]]
    assert ("status" if refusal[0] != 200 else "an empty list of choices") in kept["refused"]
    assert ask(*asking(server))[0] == result
    assert len(server.bodies) == N


def test_a_refusal_that_is_left_alone_by_a_kill_is_invalid_too(
    serve: Callable[..., Server], ask: Callable[..., Any]
) -> None:
    server = serve(lambda n, *texts: (400, b"content_filter") if "answer 3 " in "".join(texts) else fair(n, *texts))
    result, folder = ask(*asking(server))
    log = folder / "requests.jsonl"
    log.write_text("".join(f"{json.dumps(row)}\n" for row in lines(folder, log.name) if row["response"]["choices"]))
    assert ask(*asking(server))[0] == result


def test_an_endpoint_that_refuses_all_has_not_judged(
    here: Path, serve: Callable[..., Server], refused: Callable[..., str], ask: Callable[..., Any]
) -> None:
    """A model that does not take temperature answers 400 to each request."""
    for name in ("long", "other"):
        write(here / name, [line(i, f"{name} {i}") for i in range(40)])
    server = serve(
        lambda n, *texts: (400, b"no temperature") if "temperature" in server.bodies[-1] else fair(n, *texts)
    )
    command = asking(server, "a=long", "b=other", "judge.concurrency=1")
    assert "status 400, 'no temperature', 20 of 40 requests; 0 replies came" in refused(*command)
    assert len(server.bodies) == 20
    assert ask(*command, "~judge.parameters.temperature")[0]["invalid"] == 0


def test_one_request_without_a_reply_keeps_the_others_and_goes_on_later(
    serve: Callable[..., Server], ask: Callable[..., Any], refused: Callable[..., str]
) -> None:
    broken = [True]

    def respond(n: int, first: str, second: str) -> str | Reply:
        return (500, b"oops") if broken and "answer 3 " in first + second else fair(n, first, second)

    server = serve(respond)
    said = refused(*asking(server, "judge.retries=1"))
    assert "status 500, 'oops', 1 of 20 requests; 19 replies came and are kept" in said
    assert "asks the other 1" in said
    broken.clear()
    result, _ = ask(*asking(server))
    assert (result["n"], result["wins"]) == (N, expected_wins())
    assert set(Counter(server.answered).values()) == {1}


def test_the_key_is_nowhere(
    serve: Callable[..., Server], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the endpoint repeats it, in a reply or in an error."""
    broken = [True]

    def respond(n: int, first: str, second: str) -> str | Reply:
        if broken and n > 4:
            return 401, {"error": f"wrong key {KEY}"}
        return f"Your key is {KEY}.\n{fair(n, first, second)}"

    command = asking(serve(respond), "judge.concurrency=1")
    assert main(command) == 2
    broken.clear()
    assert main(command) == 0
    said = "".join(capsys.readouterr())
    assert "wrong key [key]" in said
    forms = (KEY, json.dumps(KEY)[1:-1], KEY.replace("/", "\\/"))
    texts = [said, *(path.read_text() for path in here.rglob("*") if path.is_file())]
    assert sum("Your key is [key]" in text for text in texts) == 1  # the log
    for text in texts:
        assert not any(form in text for form in (*forms, *(json.dumps(form)[1:-1] for form in forms)))
    monkeypatch.setenv("OPENAI_API_KEY", "two\nlines-of-a-key")
    assert main([*command, "seed=5"]) == 2
    err = capsys.readouterr().err
    assert "judge.key_env=OPENAI_API_KEY: holds characters that no key has" in err
    assert "lines-of" not in err


# what it costs


def test_nothing_is_asked_beyond_a_cap(
    serve: Callable[..., Server],
    ask: Callable[..., Any],
    refused: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve()
    found = read_pairs(A[2:], B[2:], Rows())
    characters = sum(len(q.messages()[0]["content"]) for [q] in questions(found.pairs, 0, both=False))
    tokens, cost = round(characters / 4), (characters / 4 * 1000 + N * 200 * 2000) / 1e6
    estimate = f"20 requests left, {characters:,} characters, about {tokens:,} tokens in and at most 4,000 out"
    said = refused(*asking(server, "judge.max_requests=19"))
    assert said.startswith(f"esolab: judge.max_requests=19: {estimate}, cost unknown: judge.price is null; nothing")
    said = refused(*asking(server, "judge.price=[1000.0,2000.0]", "judge.max_cost=8.0"))
    assert f"judge.max_cost=8: {estimate}, cost at most about {cost:.2f}; nothing was asked" in said
    assert server.bodies == []
    assert (
        main(asking(server, "judge.max_requests=20", "judge.price=[1000.0,2000.0]", f"judge.max_cost={cost + 1}")) == 0
    )
    assert f"gpt-x: {estimate}" in capsys.readouterr().err
    ask(*asking(server, "judge.max_requests=0"))  # caps count what is left, and the folder is the same
    assert len(server.bodies) == N


# a reward as the judge


@pytest.mark.parametrize("how", [["judge.reward=gleu"], ["judge.reward._target_=esolab.rewards.gleu.Gleu"]])
def test_the_higher_reward_wins_and_equal_ones_tie(here: Path, ask: Callable[..., Any], how: list[str]) -> None:
    texts = ["right 0", "wrong 1", "right 2 or so", "right"]
    others = ["wrong 0", "right 1", "right 2", "right"]
    write(here / "a", [line(i, text) for i, text in enumerate(texts)])
    write(here / "b", [line(i, text) for i, text in enumerate(others)])
    result, folder = ask("a=a", "b=b", "judge=preference", "judge.batch_size=3", "orders=both", *how)
    assert [row["verdict"] for row in lines(folder)] == ["a", "b", "b", "tie"]
    paired = enumerate(zip(texts, others, strict=True))
    gains = [score(x, f"right {i}")["gleu"] - score(y, f"right {i}")["gleu"] for i, (x, y) in paired]
    assert [g > 0 for g in gains[:3]] == [True, False, False]
    assert (result["win_rate"], result["flips"], result["judge"]) == ((1 + 0.5) / 4, 0, "Gleu")
    kept = [json.loads(row) for row in (folder / "rewards.jsonl").read_text().splitlines()]
    assert [row["id"] for row in kept] == ["p0", "p1", "p2", "p3"]
    assert [row["a"] - row["b"] for row in kept] == pytest.approx(gains)


class Broken:
    """A reward with no number for some answers."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, prompts: Any, responses: list[list[str]], references: Any) -> list[list[float | None]]:
        return [[None if self.word in text else len(text) for text in texts] for texts in responses]


def test_any_reward_may_judge_and_without_a_number_there_is_no_verdict(ask: Callable[..., Any]) -> None:
    node = [f"judge.reward._target_={__name__}.Broken", "judge.reward.word='7'"]
    result, folder = ask(A, B, "judge=preference", *node)
    assert (result["invalid"], result["wins"], result["judge"]) == (2, N - 2, "Broken")  # 7 and 17
    kept = [json.loads(row) for row in (folder / "rewards.jsonl").read_text().splitlines()]
    assert [row["id"] for row in kept if None in row.values()] == ["p7", "p17"]


def test_a_reward_model_is_named_by_its_folder() -> None:
    def judge(folder: Path) -> str:
        reward = type("Preference", (), {"folder": folder, "__call__": None})()
        return Preference(reward).name

    assert judge(Path("runs/method=reward_model-ab/reward_model")) == "Preference method=reward_model-ab"
    assert judge(Path("models/deberta")) == "Preference deberta"


def test_runs_with_the_same_answers_have_judgements_of_their_own(here: Path, ask: Callable[..., Any]) -> None:
    """Also where their names are cut before they differ."""
    names = [f"{'x' * 60}-{i}" for i in range(2)]
    for name in names:
        write(here / name, [line(0, "right 0")])
    (first, _), (again, _), (other, _) = (
        ask(f"a={name}", "b=chosen", "judge=preference", "judge.reward=gleu")[::-1] for name in (names[0], *names)
    )
    assert first == again != other


class Model(Broken):
    """A reward that is a model in a folder."""

    def __init__(self, folder: str) -> None:
        super().__init__("7")
        self.folder = Path(folder)

    def fingerprint(self) -> str:
        return (self.folder / "weights").read_text()


def test_reward_models_are_told_apart_by_their_folders_and_files(here: Path, ask: Callable[..., Any]) -> None:
    (here / "weights").write_text("1")
    command = [A, B, "judge=preference", f"judge.reward._target_={__name__}.Model", f"judge.reward.folder={here}"]
    result, first = ask(*command)
    assert result["judge"] == f"Model {here.name}"
    assert ask(*command)[1] == first
    (here / "weights").write_text("2")
    assert ask(*command)[1] != first


def test_a_reward_is_a_choice_a_folder_or_a_node(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = here / "conf"
    (conf / "reward").mkdir(parents=True)
    for name in ("rouge", "preference"):
        (conf / "reward" / f"{name}.yaml").touch()
    monkeypatch.setattr(door, "CONF", conf)
    for said, composed in (
        ("rouge", ["reward@judge.reward=rouge"]),
        ("runs", ["reward@judge.reward=preference", 'judge.reward.path="runs"']),
        ("{_target_:x.Y}", ["judge.reward={_target_:x.Y}"]),
    ):
        assert as_composed(["judge=preference", f"judge.reward={said}"]) == ["judge=preference", *composed]
    named = ["judge.reward=rouge", "judge.reward.metric=rouge1"]
    assert as_composed(["judge=preference", *named])[1:] == ["reward@judge.reward=rouge", "judge.reward.metric=rouge1"]


# two judgements


def test_agreement_of_two_judgements(
    serve: Callable[..., Server],
    ask: Callable[..., Any],
    refused: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, first = ask(*asking(serve()))
    ours = [row["verdict"] for row in lines(first)]
    other = serve(lambda n, a, b: says("A" if (len(a) > len(b)) else "B"))
    command = asking(other, "judge.model=gpt-z", f"agreement={first}")
    result, second = ask(*command)
    share, wins = sum(verdict == "a" for verdict in ours) / N, ours.count("a")
    assert [row["verdict"] for row in lines(second)] == ["a"] * N
    assert 0 < wins < N
    assert result["agreement"] == {"with": str(first), "share": share, "kappa": 0.0, "n": N}
    assert main(command) == 0
    assert re.search(rf"agreement, Cohen's kappa.*{100 * share:.2f}%, 0.000 .20 valid in both", capsys.readouterr().out)
    asked = len(other.bodies)
    for place, message in (
        (first, "judges other pairs; give a judgement of the same a, b and rows"),
        ("no", "agreement=no: no finished judgement .*No such file.*give a folder of outputs/judge"),
    ):
        assert re.search(message, refused(*asking(other, f"agreement={place}", "limit=3")))
    assert len(other.bodies) == asked  # said before anything is asked


def test_agreement_by_hand() -> None:
    def item(i: int, *winners: str) -> Item:
        return Item(questions([Pair(f"p{i}", "q", "r", "x y", "z")], 0, len(winners) == 2)[0], winners)

    judged = [item(0, "a"), item(1, "b"), item(2, "a", "b"), item(3, "invalid", "b"), item(4, "a", "tie")]
    assert [i.verdict for i in judged] == ["a", "b", "tie", "invalid", "tie"]
    found = agreement(judged, {"p0": "a", "p1": "a", "p2": "tie", "p3": "b", "p4": "tie"})
    assert found == {"share": 0.75, "kappa": pytest.approx((0.75 - 6 / 16) / (1 - 6 / 16)), "n": 4}
    other = dict.fromkeys(("p0", "p1", "p2", "p3"), "invalid") | {"p4": "b"}
    assert agreement(judged, other) == {"share": 0.0, "kappa": 0.0, "n": 1}
    assert agreement(judged[:4], other) == {"share": None, "kappa": None, "n": 0}
    summary = summarise(judged)
    assert [summary[key] for key in ("wins", "losses", "ties", "invalid", "n")] == [1, 1, 2, 1, 5]
    assert (summary["win_rate"], summary["wins_per_n"], summary["flips"]) == (0.5, 0.2, 1.0)


# the front door


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF / "judge").glob("*.yaml")))
def test_a_yaml_of_a_judge_says_every_argument(choice: str) -> None:
    text = yaml.safe_load((CONF / "judge" / f"{choice}.yaml").read_text())
    parameters = set(inspect.signature(get_object(text["_target_"])).parameters)
    assert {key for key in text if key not in ("_target_", "defaults")} == parameters


def test_help_is_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for file in [CONF / "judgement.yaml", *(CONF / "judge").glob("*.yaml")]:
        assert file.read_text() in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([X], "a: no value; give a=..."),
        ([A, X], "b: no value; give b=..."),
        ([A, B], "judge.model: no value; give judge.model=NAME"),
        ([A, B, "judge=human"], "judge=human: no such choice; choices: openai, preference, replay"),
        ([A, B, "judge=replay"], "judge.log: no value; give judge.log=FILE"),
        ([A, B, "judge=preference"], "judge.reward: no reward; give judge.reward=rouge"),
        ([A, B, "judge=preference", "judge.reward=rogue"], "judge.reward=rogue: no such choice, did you mean rouge?"),
        ([A, B, "judge.reward=rouge"], "judge.reward: is read by judge=preference"),
        ([A, B, X, "orders=all"], "orders=all: input should be 'one' or 'both'"),
        ([A, B, X, "limit=0"], "rows.limit=0: input should be greater than 0"),
        ([A, B, X, "judge.modell=y"], "judge.modell=y: unknown key, did you mean judge.model?"),
        ([A, B, X, "judge.concurrency=0"], "judge.concurrency=0: input should be greater than"),
        ([A, B, X, "judge.price=3"], "judge.price=3: input should be a valid list"),
        ([A, B, X, "judge.max_cost=3.5"], "judge.max_cost=3.5: needs judge.price=[IN,OUT]"),
        ([A, B, X, "judge.key_env=sk-123"], "judge.key_env: names no variable of the environment"),
        ([A, B, X, "judge.key_env=sk_123"], "judge.key_env: names no variable of the environment"),
        ([A, B, X, "judge.base_url=file:///etc"], "judge.base_url=file:///etc: not an address; give http"),
        ([A, B, X, "judge.base_url=http://h:x/v1"], "judge.base_url=http://h:x/v1: not an address; give http"),
        ([A, B, X, "judge.base_url=http://u:sk@h/v1"], "judge.base_url=http://h/v1: holds a user's name"),
        ([A, B, X, "judge.base_url=http://h/v1?sk=1"], "judge.base_url: holds more than an address"),
        ([A, "b=nowhere", "judge.model=x"], "b=nowhere: cannot read its predictions.jsonl"),
        ([A, B, X, "data=dolly"], "no answers with data=dolly; give data=NAME, one of hh"),
        ([A, B, X, "decoding=beam"], "no answers with decoding=beam; give decoding=NAME, one of sample"),
    ],
)
def test_bad_input_is_one_message_with_its_way_out(
    refused: Callable[..., str], arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = refused(*arguments)
    assert message in said
    assert not re.search("sk.1|u:sk@", said)
    assert not Path("outputs").exists()


def test_names_with_what_hydra_reads_otherwise_go_through(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    arguments = ["a=x/k=1,y=[2]-aa", "b=chosen", "judge.model=org/m:8b", "data=dolly", "limit=7", "orders=both"]
    config = resolve(as_composed(arguments), "judgement")
    assert (config["a"], config["b"], config["judge"]["model"]) == ("x/k=1,y=[2]-aa", "chosen", "org/m:8b")
    assert (config["rows"]["data"], config["rows"]["limit"], config["choices"]["judge"]) == ("dolly", 7, "openai")


def test_the_folder_tells_judgements_apart_not_how_they_are_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def place(*more: str) -> str:
        arguments = ["a=x/one", "b=chosen", "judge.model=m", *more]
        config = resolve(as_composed(arguments), "judgement")
        return str(door.locate(config, Pairs("hh", "sample", []), build(config["judge"])))

    first = place()
    assert re.fullmatch(r"outputs/judge/one-vs-chosen-[0-9a-f]{8}", first)
    assert place("judge.max_requests=7", "judge.price=[1.0,2.0]", "judge.timeout=5.0", "judge.key_env=null") == first
    others = [place(more) for more in ("orders=both", "seed=1", "judge.model=n", "judge.base_url=http://h/v1")]
    others.append(place("judge.parameters.temperature=1"))
    assert len({first, *others}) == 6


def test_the_judge_of_figure_2_may_be_an_endpoint(
    serve: Callable[..., Server],
    front_door: Callable[..., int],
    jobs_here: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole experiment, small, with the judge of its scale in the place of a reward model."""
    server = serve()
    small = [o for o in TINY if o != "data=newswire"]
    how = ["judge=openai", "judge.model=gpt-x", f"judge.base_url={server.url}", "limit=8"]
    command = ["-m", "experiments=figure2", f"scale.alignment.judge={json.dumps(how)}", "trainer.max_steps=2", *small]
    assert front_door(*command, "trainer.epochs=1", "sampling.k=2") == 0
    assert len(jobs_here) == 5 + len(METHODS)
    found = [json.loads(f.read_text()) for f in (tmp_path / "outputs" / "figure2" / "judge").glob("*/result.json")]
    assert sorted(Path(one["a"]).name.partition(",")[0] for one in found) == [f"stage={m}" for m in METHODS]
    assert {(one["b"], one["judge"], one["data"], one["n"]) for one in found} == {("chosen", "gpt-x", "preferences", 8)}
    assert len(server.answered) == 8 * len(METHODS)
    shown = capsys.readouterr().out
    assert shown.count("preferences, sample: win rate over chosen by gpt-x") == 1 + 3  # a table, and methods beside SFT
    assert "models held in training" in shown
