"""A server's reward, against a server on this machine. Nothing sleeps: what would be slept is noted."""

import json
import math
import ssl
import threading
from concurrent.futures import as_completed
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest
import torch

from esolab import endpoint
from esolab.config import build, resolve
from esolab.errors import BadInput
from esolab.rewards.base import Reward
from esolab.rewards.http import Http

TOKEN = "s3cret-token/of+a.user="
PROMPTS, REFERENCES = ["p", "q"], ["r", "s"]
RESPONSES = [["one", "two words"], ["", "and three words"]]
ITEMS = [
    {"prompt": prompt, "response": answer, "reference": reference}
    for prompt, answers, reference in zip(PROMPTS, RESPONSES, REFERENCES, strict=True)
    for answer in answers
]
WORDS = [[1.0, 2.0], [0.0, 3.0]]


class Server(ThreadingHTTPServer):
    """Answers by `reply(items)`: a status, a body, and headers; keeps what it was sent."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that has gone away is no matter."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        status, reply, headers = self.server.reply(body["items"])
        text = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        """Not to the terminal."""


def words(items):
    return 200, {"rewards": [len(item["response"].split()) for item in items]}, {}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server(("127.0.0.1", 0), Handler)
    server.seen, server.reply = [], words
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def http(server):
    """http(retries=2): a reward of this server."""
    return lambda **settings: Http(f"http://127.0.0.1:{server.server_port}/score?version=hidden", **settings)


@pytest.fixture
def slept(monkeypatch):
    """What would have been slept, in seconds."""
    seconds = []

    class Noting(threading.Event):
        def wait(self, timeout=None):
            seconds.append(timeout)

    monkeypatch.setattr(endpoint, "Event", Noting)
    return seconds


def in_turn(server, *replies):
    """The server gives these replies one after the other, and then numbers."""
    left = list(replies)
    server.reply = lambda items: left.pop(0) if left else words(items)


def call(reward):
    return reward(PROMPTS, RESPONSES, REFERENCES)


# what is sent and what comes back


def test_answers_go_out_and_rewards_come_back(server, http):
    found = call(http())
    assert isinstance(http(), Reward)
    assert found.dtype == torch.float32
    assert found.tolist() == WORDS
    ((path, headers, body),) = server.seen
    assert (path, body) == ("/score?version=hidden", {"items": ITEMS})
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers


def test_texts_of_any_script_arrive_as_they_are(server, http):
    texts = ['"\\\n\t', "Grüße 你好 🎈", "\ud800"]
    http()(["p"], [texts], ["r"])
    assert [item["response"] for item in server.seen[0][2]["items"]] == texts


@pytest.mark.parametrize(("size", "sizes"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (4, [4]), (100, [4])])
def test_batches(size, sizes, server, http):
    assert call(http(batch_size=size, concurrency=1)).tolist() == WORDS
    assert [len(body["items"]) for _, _, body in server.seen] == sizes
    assert [item for _, _, body in server.seen for item in body["items"]] == ITEMS


def test_order_is_kept_when_the_first_request_is_answered_last(server, http):
    last_is_done = threading.Event()

    def reply(items):
        if items == ITEMS[:1]:
            assert last_is_done.wait(10)
        if items == ITEMS[3:]:
            last_is_done.set()
        return words(items)

    server.reply = reply
    assert call(http(batch_size=1, concurrency=4)).tolist() == WORDS


def test_as_many_requests_at_once_as_it_may_and_no_more(server, http):
    """Each waits for a second one to be there; a third would be seen."""
    pair, lock, now = threading.Barrier(2), threading.Lock(), []
    most = []

    def reply(items):
        with lock:
            now.append(items)
            most.append(len(now))
        pair.wait(10)
        with lock:
            now.remove(items)
        pair.wait(10)
        return words(items)

    server.reply = reply
    assert call(http(batch_size=1, concurrency=2)).tolist() == WORDS
    assert max(most) == 2


# what may pass


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_after_twice_the_time(status, server, http, slept):
    in_turn(server, *[(status, b"busy", {})] * 3)
    reward = http(backoff=0.5)
    assert call(reward).tolist() == WORDS
    assert slept == [0.5, 1.0, 2.0]
    assert [body for _, _, body in server.seen] == [{"items": ITEMS}] * 4


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("7", 7), ("0", 0.5), ("3600", 20), (formatdate(1009, usegmt=True), 9), (formatdate(990, usegmt=True), 0.5)),
        *(("soon", 0.5), ("-3", 0.5), ("", 0.5), ("9" * 30, 0.5), ("Mon, 99 Foo 1999", 0.5)),
    ],
)
def test_a_server_that_says_how_long_is_waited_for_within_bounds(header, seconds, server, http, slept, monkeypatch):
    in_turn(server, (429, b"", {"Retry-After": header}))
    reward = http(backoff=0.5, max_wait=20.0)
    monkeypatch.setattr(endpoint, "time", lambda: 1000.0)
    assert call(reward).tolist() == WORDS
    assert slept == [seconds]


def test_waits_grow_up_to_the_most(server, http, slept):
    in_turn(server, *[(503, b"", {})] * 5)
    reward = http(backoff=1.0, max_wait=4.0)
    call(reward)
    assert slept == [1, 2, 4, 4, 4]


def test_a_server_that_stays_out_of_order_ends_the_run(server, http, slept):
    server.reply = lambda items: (500, b"", {})
    reward = http(retries=2)
    with pytest.raises(BadInput) as caught:
        call(reward)
    place = f"reward.url=http://127.0.0.1:{server.server_port}/score: "
    assert str(caught.value) == (
        f"{place}no reply in 3 attempts (it answers with status 500, ''); see whether the server runs, or raise "
        "reward.retries or reward.timeout"
    )
    assert (len(server.seen), slept) == (3, [0.5, 1.0])


def test_a_request_without_retries_is_tried_once(server, http, slept):
    server.reply = lambda items: (500, b"", {})
    with pytest.raises(BadInput, match=r"no reply in 1 attempts \(it answers with status 500"):
        call(http(retries=0))
    assert len(server.seen) == 1


def test_a_server_that_does_not_answer_in_time(server, http, slept):
    go_on, left = threading.Event(), [None]

    def reply(items):
        if left:
            left.pop()
            go_on.wait(10)
        return words(items)

    server.reply = reply
    reward = http(timeout=0.4)
    try:
        assert call(reward).tolist() == WORDS
        assert slept == [0.5]
        left.append(None)
        with pytest.raises(BadInput, match=r"no reply in 1 attempts \(no reply within 0.1 s\)"):
            call(http(timeout=0.1, retries=0))
    finally:
        go_on.set()


def test_a_server_that_hangs_up(server, http, slept):
    server.reply = lambda items: (200, b"{", {"Content-Length": "100"})
    with pytest.raises(BadInput, match=r"no reply in 2 attempts \(it cannot be reached \(IncompleteRead"):
        call(http(retries=1))


def test_a_server_that_is_not_there(monkeypatch, slept):
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as gone:
        port = gone.server_port
    reward = Http(f"http://127.0.0.1:{port}/", retries=1)
    with pytest.raises(
        BadInput, match=rf"^reward\.url=http://127\.0\.0\.1:{port}/: no reply in 2 .*Connection refused"
    ):
        call(reward)


# what will not pass


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        (400, "see what the server wants"),
        (401, "reward.token_env"),
        (403, "reward.token_env"),
        (404, "see whether reward.url is right"),
        (413, "lower reward.batch_size"),
        (501, "see what the server wants"),
    ],
)
def test_a_refusal_is_one_message_and_is_not_tried_again(status, way_out, server, http, slept):
    server.reply = lambda items: (status, b'{"error":\n "no such judge"}', {})
    reward = http(batch_size=1, concurrency=1)
    with pytest.raises(BadInput) as caught:
        call(reward)
    place = f"reward.url=http://127.0.0.1:{server.server_port}/score: "
    assert str(caught.value).startswith(f'{place}it answers with status {status}, \'{{"error": "no such judge"}}\'; ')
    assert way_out in str(caught.value)
    assert slept == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_token(status, server, http, monkeypatch):
    monkeypatch.setenv("JUDGE", TOKEN)
    server.reply = lambda items: (status, b"", {"Location": f"http://127.0.0.1:{server.server_port}/elsewhere"})
    with pytest.raises(BadInput, match=f"status {status}"):
        call(http(token_env="JUDGE"))
    assert len(server.seen) == 1


@pytest.mark.parametrize("how", ["refused", "interrupted"])
def test_a_wait_ends_with_the_call(how, server, http, monkeypatch):
    """One request waits for an hour while another is refused, or somebody presses Ctrl-C."""
    waiting, ended = threading.Event(), []

    class Telling(threading.Event):
        def wait(self, timeout=None):
            waiting.set()
            ended.append(super().wait(min(timeout, 10)))

    def reply(items):
        if items == ITEMS[:2]:
            return 503, b"", {"Retry-After": "3600"}
        assert waiting.wait(10)
        return (401, b"", {}) if how == "refused" else words(items)

    def interrupted(futures):
        next(as_completed(futures))
        raise KeyboardInterrupt

    monkeypatch.setattr(endpoint, "Event", Telling)
    if how == "interrupted":
        monkeypatch.setattr(endpoint, "as_completed", interrupted)
    server.reply = reply
    with pytest.raises(BadInput if how == "refused" else KeyboardInterrupt):
        call(http(batch_size=2, concurrency=2, max_wait=3600.0, retries=1))
    assert ended == [True]  # by the event, not by the clock
    assert len(server.seen) == 2


def test_a_certificate_that_is_not_trusted_is_not_tried_again(http, slept, monkeypatch):
    class Opener:
        def open(self, request, timeout):
            raise URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(endpoint, "build_opener", lambda handler: Opener())
    with pytest.raises(BadInput, match=r"its certificate is not trusted .*self-signed.*; mend that, or give another"):
        call(http())
    assert slept == []


# what is no reply


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>not json at all</html>",
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        {"rewards": [1, 2, 3]},  # one for each of four answers
        {"rewards": [1, 2, 3, 4, 5]},
        {"rewards": []},
        {"rewards": {"0": 1, "1": 2, "2": 3, "3": 4}},
        {"rewards": "1234"},
        {"rewards": None},
        {"reward": [1, 2, 3, 4]},
        [1, 2, 3, 4],
        None,
    ],
    ids=lambda reply: str(reply)[:20],
)
def test_another_reply_is_no_number_for_these_answers_and_is_shown_once(reply, server, http, caplog):
    server.reply = lambda items: (200, reply, {})
    reward = http()
    assert call(reward).isnan().all()
    assert call(reward).isnan().all()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"reward.url=http://127.0.0.1:{server.server_port}/score: not a reply of the form ")
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else json.dumps(reply)
    assert repr(text[:200])[:-1] in line
    assert len(line) < 500
    assert "hidden" not in line


def test_one_bad_reply_spoils_no_other(server, http, caplog):
    server.reply = lambda items: words(items) if items != ITEMS[2:3] else (200, {"rewards": []}, {})
    found = call(http(batch_size=1))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2], [math.nan, 3]]), equal_nan=True)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", "true", '"1"', "[1]", "{}", "1e999", "9" * 400])
def test_what_is_no_number_is_none_for_its_answer_alone(value, server, http):
    server.reply = lambda items: (200, f'{{"rewards": [1, {value}, 0, 3.5]}}'.encode(), {})
    torch.testing.assert_close(call(http()), torch.tensor([[1, math.nan], [0, 3.5]]), equal_nan=True)


# the token


def test_the_token_is_sent_and_nowhere_seen(server, http, slept, monkeypatch, caplog, capfd):
    monkeypatch.setenv("JUDGE", TOKEN)
    caplog.set_level(0)
    reward = http(token_env="JUDGE", retries=1)
    seen = [repr(reward), str(vars(reward))]
    echo = f"{'x' * 190}{TOKEN} is wrong".encode()  # cut in its middle, were it not taken out first
    assert call(reward).tolist() == WORDS
    for status in (200, 401, 503):
        server.reply = lambda items, status=status: (status, echo, {})
        try:
            call(reward)
        except BadInput as error:
            seen.append(str(error))
    assert [headers["Authorization"] for _, headers, _ in server.seen] == [f"Bearer {TOKEN}"] * 5
    assert len(seen) == 4
    seen += [caplog.text, *capfd.readouterr()]
    assert "[key]" in caplog.text
    assert "[key]" in seen[2]
    assert not any(TOKEN[:8] in text for text in seen)


def test_config_has_the_name_of_the_variable_alone(monkeypatch):
    monkeypatch.setenv("JUDGE", TOKEN)
    config = resolve(["reward=http", "reward.url=https://judge.example/score", "reward.token_env=JUDGE"])
    assert config["reward"]["token_env"] == "JUDGE"
    assert TOKEN not in str(config)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        *(
            (value, "reward.token_env: names no variable of the environment, or an empty one")
            for value in (None, "", " \n")
        ),
        *((value, "reward.token_env=JUDGE: holds characters that no key has") for value in ("two words", "a\nb", "ä")),
    ],
)
def test_a_token_that_cannot_be_sent_is_said_before_a_run_and_not_shown(value, wrong, monkeypatch):
    monkeypatch.delenv("JUDGE", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE", value)
    with pytest.raises(BadInput) as caught:
        resolve(["reward=http", "reward.url=http://localhost", "reward.token_env=JUDGE", "method.lam=-1"])
    (first, second) = sorted(str(caught.value).splitlines())
    assert first.startswith("method.lam=-1: ")
    assert second.startswith(wrong)


@pytest.mark.parametrize("value", [TOKEN, "sk_4711abc"])  # the second could be a variable's name
def test_a_token_in_the_place_of_its_variable_is_not_shown(value):
    with pytest.raises(BadInput, match=r"^reward\.token_env: names no variable of the environment") as caught:
        Http("http://localhost", token_env=value)
    assert value not in str(caught.value)


# the configuration


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("localhost:8000/score", "localhost:8000/score"),
        ("ftp://host/score", "ftp://host/score"),
        ("http://", "http://"),
        ("http:///score", "http:///score"),
        ("http://host:port/", "http://host:port/"),
        ("http://host:99999/", "http://host:99999/"),
        ("http://[::1/?key=secret", "http://[::1/"),
        ("http://host/a b?key=secret", "http://host/a b"),
        ("http://host/ä#secret", "http://host/ä"),
        ("http://me:secret@host/score?key=secret", "http://host/score"),
        ("http://me:sec/secret@host/score", "http://host/score"),
        ("http://host/score?v=1&API_Key=secret", "http://host/score"),
        ("", ""),
    ],
)
def test_an_address_that_cannot_be_used_is_shown_without_its_secrets(url, shown):
    with pytest.raises(BadInput) as caught:
        Http(url)
    assert str(caught.value).startswith(f"reward.url={shown}: ")
    assert "secret" not in str(caught.value)


def test_the_yaml_has_every_setting_and_its_bounds():
    config = resolve(["reward=http", "reward.url=http://localhost:8000/score"])
    reward = build(config["reward"])
    assert isinstance(reward, Reward)
    assert (reward.batch_size, reward.concurrency, reward.retries, reward.max_bad_share) == (32, 4, 5, 0.1)
    wrong = ["batch_size=0", "concurrency=0", "retries=-1", "timeout=0", "backoff=inf", "max_wait=-1", "token_env=3"]
    with pytest.raises(BadInput) as caught:
        resolve(["reward=http", *(f"reward.{setting}" for setting in wrong)])
    found = str(caught.value).splitlines()
    assert found[0] == "reward.url: no value; give reward.url=..."
    assert sorted(line.split(": ")[0] for line in found[1:]) == sorted(f"reward.{setting}" for setting in wrong)


def test_lists_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="a reward needs"):
        Http("http://localhost")(PROMPTS, RESPONSES, REFERENCES[:1])
