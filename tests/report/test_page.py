"""report.html: one file, inert answers, and what a reader does with it in a browser."""

import base64
import gzip
import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from esolab.errors import BadInput
from esolab.report import answers
from esolab.report.findings import findings
from esolab.report.page import write_page

Make = Callable[..., Path]
EVIL = "<script>alert('owned')</script><img src=x onerror=\"document.title='owned'\">${1}{{7*7}}</textarea>"
REWARDS = [{"step": 1, "epoch": 0, "reward/mean": 0.5, "entropy": 2.0, "length/mean": 3.0}]


@pytest.fixture
def half(run: Make, tmp_path: Path) -> Path:
    """SFT and ESO of two seeds, and DRL of one, of 30 prompts; a run that is not finished; a policy that attacks."""
    for method in ("sft", "eso", "drl"):
        for seed in (0, 1) if method != "drl" else (0,):
            texts = {f"p{i}": (f"{method} says {i}", 0.1 + 0.01 * i + _gain(method, i)) for i in range(30)}
            texts["p4"] = (EVIL, 0.9) if method == "eso" else ("needle in a haystack", 0.1)
            texts["p5"] = ("the same", 0.5)
            row = {"n": 30, "rouge1": 1.0, "rouge2": 1.0, "gleu": 1.0, "length": 3.0}
            mean = sum(100 * score for _, score in texts.values()) / 30
            run(
                f"method={method},seed={seed}-0000000{seed}",
                texts,
                prompt="Prompt {} " + EVIL.replace("{", "{{").replace("}", "}}"),
                metrics=REWARDS if method != "sft" else (),
                seed=seed,
                setting=f"s{seed}",
                but_for_seed=method,
                scores={"hh": {"sample": {**row, "rougeL": mean + seed}}},
            )
    begun = tmp_path / "method=eso,seed=2-00000002"
    begun.mkdir()
    (begun / "config.yaml").write_text("seed: 2\n")
    return tmp_path


def _gain(method: str, i: int) -> float:
    """Over SFT, of an answer: ESO has some, DRL none on average."""
    return {"sft": 0.0, "eso": 0.2 * (i % 3), "drl": 0.05 * (-1) ** i}[method]


@pytest.fixture
def page(half: Path) -> str:
    return write_page(findings([half]), half).read_text()


def unpacked(page: str) -> dict[str, Any]:
    """The answers that a page holds."""
    (text,) = re.findall(r'<script type="text/plain" id="packed">([^<]*)</script>', page)
    return dict(json.loads(gzip.decompress(base64.b64decode(text))))


def own(page: str) -> str:
    """The page without Plotly's script, as text that a reader sees."""
    return html.unescape(re.sub(r"(?s)<script.*?</script>", "", page))


def test_the_verdict_comes_first_and_what_is_missing_is_said(page: str) -> None:
    places = [page.index(f'<section id="{name}">') for name in ("verdict", "scores", "figures", "missing", "answers")]
    assert places == sorted(places)
    text = own(page)
    assert "ESO scores" in text[: text.index("<h2>Scores</h2>")]
    assert "method=eso,seed=2-00000002" in text
    assert "not finished" in text
    assert "no run with seed 1" in text


def test_what_cannot_be_told_apart_is_grey(page: str) -> None:
    grey = re.findall(r'<p class="unsure">(.*?)</p>', page)
    assert grey
    assert all(": not distinguishable" in sentence for sentence in grey)
    (row,) = re.findall(r'(?s)<tr><th scope="row">DRL</th>(.*?)</tr>', page)[:1]
    assert 'class="unsure"' in row


def test_the_table_has_means_deviations_and_the_best(page: str) -> None:
    (row,) = re.findall(r'(?s)<tr><th scope="row">ESO</th>(.*?)</tr>', page)[:1]
    cells = [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
    assert cells[:3] == ["2", "1.00 ± 0.00", "1.00 ± 0.00"]
    assert re.fullmatch(r"\d+\.\d\d ± 0\.71", cells[3])
    assert f"<b>{cells[3].split()[0]}</b>" in row


def test_an_answer_never_meets_the_page_as_markup(page: str) -> None:
    assert "<script>alert" not in page
    assert "onerror" not in re.sub(r"(?s)<script.*?</script>", "", page)
    row = next(r for r in unpacked(page)["corpora"][0]["rows"] if r["id"] == "p4")
    assert EVIL in row["prompt"]
    assert [text for text, _ in row["answers"]["sample"] if text == EVIL] == [EVIL]


def test_names_of_runs_are_escaped(half: Path, run: Make) -> None:
    (half / "sweep.json").write_text(
        json.dumps(
            {
                "schema": 1,
                "command": f"python -m esolab {EVIL}",
                "jobs": [{"name": EVIL, "folder": None, "state": "failed", "exit": 1, "seconds": 1, "said": [EVIL]}],
                "trunks": [],
            }
        )
    )
    page = write_page(findings([half]), half).read_text()
    assert "<script>alert" not in page
    assert own(page).count(EVIL) == 3


def test_nothing_is_fetched_and_no_other_script_runs(page: str) -> None:
    ours = re.sub(r"(?s)<script>.*?</script>", "", page)
    assert "http://" not in ours
    assert "https://" not in ours
    assert not re.findall(r"<(?:link|img|iframe|object)\b", ours)
    assert not re.findall(r"(?:src|href)=\"(?!#)", ours)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == 2
    assert "unsafe-inline" not in policy.partition("style-src")[0]


def test_the_same_findings_give_the_same_page(half: Path, page: str) -> None:
    assert write_page(findings([half]), half).read_text() == page


def test_answers_are_of_one_seed_the_most_apart_first(page: str) -> None:
    held = unpacked(page)
    assert held["seed"] == 0
    assert [variant["name"] for variant in held["variants"]] == ["SFT", "DRL", "ESO"]
    (corpus,) = held["corpora"]
    assert (corpus["name"], corpus["headline"], corpus["prompts"], len(corpus["rows"])) == ("hh", "sample", 30, 30)
    assert corpus["rows"][0]["id"] == "p4"
    assert corpus["rows"][0]["answers"]["sample"] == [
        ["needle in a haystack", 10.0],
        ["needle in a haystack", 10.0],
        [EVIL, 90.0],
    ]


def test_a_page_holds_some_prompts_and_says_how_many(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_APART", 4)
    monkeypatch.setattr(answers, "AT_RANDOM", 3)
    (corpus,) = unpacked(write_page(findings([half]), half).read_text())["corpora"]
    assert (corpus["prompts"], corpus["apart"], len(corpus["rows"])) == (30, 4, 7)
    assert len({row["id"] for row in corpus["rows"]}) == 7
    assert corpus["rows"][0]["id"] == "p4"


def test_answers_that_are_too_many_are_cut_until_they_fit(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BYTES", 1_000)
    page = write_page(findings([half]), half).read_text()
    (corpus,) = unpacked(page)["corpora"]
    assert 2 <= len(corpus["rows"]) < 30
    (text,) = re.findall(r'id="packed">([^<]*)<', page)
    assert len(text) <= 1_000


def test_a_run_alone_has_a_page(run: Make, tmp_path: Path) -> None:
    run("method=sft-00000001", {"a": ("x", 0.5), "b": ("y", 0.25)})
    text = own(write_page(findings([tmp_path]), tmp_path).read_text())
    assert "Nothing to compare" in text
    assert "Nothing that is known of." in text


def test_runs_without_answers_have_a_page(run: Make, tmp_path: Path) -> None:
    row = {"n": 8, "accuracy": 0.75, "accuracy_longer": None, "accuracy_shorter": 0.5, "calibration": 0.1, "margin": 1}
    run("method=reward_model-00000001", scores={"hh": {"preference": row}})
    page = write_page(findings([tmp_path]), tmp_path).read_text()
    assert "No run has scores of answers." in own(page)
    assert "0.750" in own(page)
    assert unpacked(page)["corpora"] == []


def test_damaged_predictions_are_said(half: Path) -> None:
    found = findings([half])
    (broken,) = half.glob("method=eso,seed=0*")
    (broken / "predictions.jsonl").write_text('{"id": ')
    with pytest.raises(BadInput, match=r"method=eso,seed=0-00000000/predictions\.jsonl is damaged"):
        write_page(found, half)


# In a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, without a network."""
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: the page was not tried in a browser (apt-get install chromium)")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, half: Path) -> Iterator[Callable[..., Any]]:
    """Open the page at a width; whatever the console says or the page asks the network for fails the test."""
    path = write_page(findings([half]), half)
    said: list[str] = []
    contexts = []

    def go(width: int = 1280, scheme: str = "light") -> Any:
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        )
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        tab.goto(path.as_uri())
        tab.wait_for_selector(".case")
        return tab

    yield go
    for context in contexts:
        context.close()
    assert said == []


def _ids(tab: Any) -> list[str]:
    return list(tab.locator(".case h3").all_inner_texts())


@pytest.mark.slow
def test_a_reader_finds_answers(visit: Callable[..., Any]) -> None:
    tab = visit()
    assert _ids(tab)[0] == "p4"
    assert len(_ids(tab)) == 20
    assert tab.locator("#count").inner_text() == "30 of 30 prompts, answers of seed 0."
    tab.click("#next")
    assert len(_ids(tab)) == 10
    assert tab.locator("#place").inner_text() == "page 2 of 2"
    tab.check("#differ")
    assert tab.locator("#count").inner_text().startswith("29 of 30")
    tab.fill("#search", "ESO says 7")
    assert _ids(tab) == ["p7"]
    sides = tab.locator(".side").all_inner_texts()
    assert [side.split("\n")[0] for side in sides] == ["reference", "SFT", "DRL", "ESO"]
    assert "eso says 7" in sides[3]
    tab.fill("#search", "")
    tab.uncheck("#differ")
    tab.locator("#variants input").nth(2).uncheck()  # ESO, and with it what set p4 apart
    assert _ids(tab)[0] != "p4"
    assert tab.locator(".side").count() == 3 * 20
    tab.select_option("#sort", label="best for DRL")
    assert "best for ESO" not in tab.locator("#sort").inner_text()


@pytest.mark.slow
def test_what_a_policy_wrote_does_not_run(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.fill("#search", "alert('owned')")
    shown = tab.locator(".case").first.locator(".side").last.locator(".text").inner_text()
    assert shown == EVIL
    assert tab.locator("#answers script, #answers img").count() == 0
    assert tab.title().endswith("what the runs found")


@pytest.mark.slow
def test_it_fits_a_phone(visit: Callable[..., Any]) -> None:
    tab = visit(width=390)
    for place in tab.locator(".plot").all():
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for()
    tab.locator("details").evaluate_all("all => all.forEach((each) => each.open = true)")
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert tab.locator(".scroll").first.evaluate("box => box.scrollWidth > box.clientWidth")  # the table moves, alone


@pytest.mark.slow
def test_it_is_light_and_dark_and_figures_follow(visit: Callable[..., Any]) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.plot .ytitle')).fill"
    light, dark = visit(), visit(scheme="dark")
    seen = []
    for tab in (light, dark):
        tab.locator(".plot").first.scroll_into_view_if_needed()
        tab.locator(".plot .ytitle").first.wait_for()
        tab.wait_for_timeout(300)
        seen.append((tab.evaluate(paper), tab.evaluate(ink)))
    assert seen == [("rgb(253, 253, 252)", "rgb(29, 31, 33)"), ("rgb(22, 24, 27)", "rgb(228, 228, 225)")]
    dark.click("#theme")
    dark.wait_for_timeout(300)
    assert (dark.evaluate(paper), dark.evaluate(ink)) == seen[0]
