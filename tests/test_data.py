"""Examples to batches: limits, shortening, order, and what a batch holds."""

from dataclasses import replace

import pytest
import torch

from esolab.batch import Example
from esolab.corpora.alpaca import CUE, INPUT, alpaca
from esolab.corpora.newswire import Newswire
from esolab.data import Batches, Encoded, Order, TrainingData, collate, encode, shorten, within
from esolab.errors import BadInput
from esolab.models import Model
from esolab.policy import Tokenizer

CONTEXT = "  In the year 1901 the museum\tof Porto burned down.\nNobody knows who lit the fire,  and nobody asks. "


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    """A byte-level BPE of the newswire: every text can be written in it."""
    splits = Newswire(max_prompt=96, max_response=24, train=200, dev=10, test=10)()
    model = Model(weights="random", architecture={"model_type": "gpt2"}, vocab_size=500)
    return model.load_tokenizer([f"{e.prompt}{e.reference}" for e in splits.train])


def shortened(examples: list[Example], tokenizer: Tokenizer, limit: int) -> tuple[list[Encoded], int]:
    return shorten(encode(examples, tokenizer), tokenizer, limit)


def encoded(prompt: int, reference: int) -> Encoded:
    return Encoded(Example(f"{prompt}/{reference}", "p", "r", (0, 1)), [7] * prompt, [8] * reference)


@pytest.fixture(scope="module")
def rows(bpe: Tokenizer) -> list[Encoded]:
    return encode(Newswire(max_prompt=96, max_response=24, train=37, dev=5, test=5)().train, bpe)


def test_a_reference_ends_with_one_end_token_and_a_prompt_with_none(bpe: Tokenizer) -> None:
    examples = [Example("a", "Who?", "Nobody.", (0, 4)), Example("b", "Why?", "", (0, 4))]
    first, second = encode(examples, bpe)
    assert (first.example, second.example) == tuple(examples)
    assert first.reference[-1] == bpe.eos[0]
    assert bpe.eos[0] not in first.reference[:-1] + first.prompt
    assert second.reference == [bpe.eos[0]]
    assert bpe.decode([first.prompt, first.reference]) == ["Who?", "Nobody."]


def test_a_prompt_without_a_token_is_bad_input(bpe: Tokenizer) -> None:
    with pytest.raises(BadInput, match="the prompt of example 'empty' has no token"):
        encode([Example("good", "p", "r", (0, 1)), Example("empty", "", "r", (0, 0))], bpe)


def test_limits_hold_for_prompt_response_and_their_sum() -> None:
    sizes = [(10, 5), (11, 5), (10, 6), (1, 1), (9, 6), (12, 1)]
    kept = within([encoded(*size) for size in sizes], 10, 5)
    assert [e.example.id for e in kept] == ["10/5", "1/1"]  # in order; the limit itself is within
    assert [e.example.id for e in within([encoded(*s) for s in sizes], 12, 6, 15)] == ["10/5", "1/1", "9/6", "12/1"]
    assert len(within([encoded(*s) for s in sizes], 12, 6)) == len(sizes)
    assert within([encoded(3, 3)], 3, 3, 5) == []


def test_only_the_left_of_the_input_field_is_cut_at_a_word_and_no_more_than_needed(bpe: Tokenizer) -> None:
    example = alpaca("When did it burn?", CONTEXT, "In 1901.", "museum")
    (whole,) = encode([example], bpe)
    before, after = example.prompt[: example.span[0]], example.prompt[example.span[1] :]
    starts = [i for i, c in enumerate(CONTEXT) if not c.isspace() and (i == 0 or CONTEXT[i - 1].isspace())]
    rests = [*(CONTEXT[i:] for i in starts), ""]  # what may be left, the longest first
    sizes = {rest: len(bpe.prompts([before + rest + after])[0]) for rest in rests}
    assert before.endswith(INPUT)
    assert after == CUE
    for limit in range(sizes[""], len(whole.prompt)):
        (cut,), count = shortened([example], bpe, limit)
        longest = next(rest for rest in rests if sizes[rest] <= limit)
        assert bpe.inner.decode(cut.prompt) == before + longest + after
        assert (count, cut.example, cut.reference) == (1, example, whole.reference)
    (kept,), count = shortened([example], bpe, len(whole.prompt))
    assert (kept, count) == (whole, 0)


def test_an_input_goes_whole_before_what_stands_before_it(bpe: Tokenizer) -> None:
    example = alpaca("When did it burn?", CONTEXT, "In 1901.", "museum")
    start, end = example.span
    bare = example.prompt[:start] + example.prompt[end:]
    least = len(bpe.prompts([bare])[0])
    (cut,), _ = shortened([example], bpe, least)
    assert bpe.inner.decode(cut.prompt) == bare
    (more,), count = shortened([example], bpe, least - 5)
    kept = bpe.inner.decode(more.prompt)
    assert count == 1
    assert len(more.prompt) <= least - 5
    assert bare.endswith(kept)
    assert kept.endswith("### Response:\n")


def test_a_cue_that_does_not_fit_is_bad_input(bpe: Tokenizer) -> None:
    example = alpaca("When did it burn?", CONTEXT, "In 1901.", "museum")
    with pytest.raises(BadInput, match=r"the prompt of example 'museum' has .* without its input.* limit is 2"):
        shortened([example], bpe, 2)


def test_prompts_within_the_limit_stay_as_they_are_and_are_not_counted(bpe: Tokenizer) -> None:
    short, long = (
        alpaca("When did it burn?", text, "In 1901.", id) for text, id in ((CONTEXT, "s"), (CONTEXT * 3, "l"))
    )
    (whole,) = encode([short], bpe)
    rows, count = shortened([short, long, short], bpe, len(whole.prompt))
    assert count == 1
    assert [row.example.id for row in rows] == ["s", "l", "s"]
    assert rows[0].prompt == rows[2].prompt == whole.prompt
    assert bpe.inner.decode(rows[1].prompt).endswith(CUE)


def test_an_instruction_without_input_is_cut_itself(bpe: Tokenizer) -> None:
    example = alpaca("Please tell me at once which year that was.", " ", "1901.", "no-input")
    (whole,) = encode([example], bpe)
    (cut,), _ = shortened([example], bpe, len(whole.prompt) - 3)
    text = bpe.inner.decode(cut.prompt)
    assert text.startswith(example.prompt[: example.span[0]])
    assert text.endswith(f"that was.{CUE}")


def epoch(data: TrainingData, number: int) -> list[str]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, Batches)
    loader.sampler.set_epoch(number)
    return [id for batch in loader for id in batch.ids]


def test_order_depends_on_seed_and_epoch_alone(rows: list[Encoded]) -> None:
    data = TrainingData(rows, 16, seed=0)
    first = epoch(data, 0)
    second = epoch(data, 1)
    assert first != second
    assert epoch(data, 0) == first  # whatever was drawn before
    torch.manual_seed(1234)
    assert epoch(TrainingData(rows, 16, seed=0), 1) == second  # whatever the global generator says
    assert epoch(TrainingData(rows, 3, seed=0), 1) == second  # whatever the batch
    assert epoch(TrainingData(rows, 16, seed=1), 0) not in (first, second)
    assert first != [row.example.id for row in rows]


def test_an_epoch_that_was_begun_goes_on_with_the_next_batch_and_the_others_are_whole(rows: list[Encoded]) -> None:
    whole, data = TrainingData(rows, 16, seed=0), TrainingData(rows, 16, seed=0)
    data.steps = 3 + 2  # of three an epoch
    assert epoch(data, 1) == epoch(whole, 1)[32:]
    assert epoch(data, 2) == epoch(whole, 2)
    data.steps = 6
    assert epoch(data, 2) == epoch(whole, 2)


def test_an_order_draws_nothing_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    list(Order(10, 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_example_comes_once_an_epoch_and_the_last_batch_is_not_dropped(rows: list[Encoded]) -> None:
    data = TrainingData(rows, 16, seed=0)
    assert sorted(epoch(data, 3)) == sorted(row.example.id for row in rows)
    assert [len(batch) for batch in data.train_dataloader()] == [16, 16, 5]


def test_a_batch_holds_tokens_and_texts_of_the_same_examples(rows: list[Encoded]) -> None:
    batch = collate(rows[:7])
    assert len(batch) == 7
    for tokens, sequences in (
        (batch.prompts, [row.prompt for row in rows[:7]]),
        (batch.references, [row.reference for row in rows[:7]]),
    ):
        assert tokens.ids.shape == (7, max(map(len, sequences)))
        assert tokens.lengths.tolist() == [len(s) for s in sequences]
        assert [ids[:n].tolist() for ids, n in zip(tokens.ids, tokens.lengths, strict=True)] == sequences
    assert batch.ids == [row.example.id for row in rows[:7]]
    assert batch.prompt_texts == [row.example.prompt for row in rows[:7]]
    assert batch.reference_texts == [row.example.reference for row in rows[:7]]


def test_a_part_of_a_batch_is_the_batch_of_the_part(rows: list[Encoded]) -> None:
    part, alone = collate(rows[:7])[2:5], collate(rows[2:5])
    width = alone.prompts.ids.shape[1]
    assert part.ids == alone.ids
    assert torch.equal(part.prompts.ids[:, :width], alone.prompts.ids)
    assert torch.equal(part.prompts.lengths, alone.prompts.lengths)
    assert (part.prompt_texts, part.reference_texts) == (alone.prompt_texts, alone.reference_texts)


def test_a_text_without_blanks_is_cut_inside_and_no_more_than_needed(bpe: Tokenizer) -> None:
    cue, text = " reply:", "".join(chr(97 + i % 7) for i in range(200))
    example = Example("a", text + cue, "yes", (0, len(text)))
    whole = len(bpe.prompts([text + cue])[0])
    (cut,), count = shortened([example], bpe, whole - 20)
    assert count == 1
    assert whole - 24 <= len(cut.prompt) <= whole - 20
    assert (text + cue).endswith(bpe.inner.decode(cut.prompt))


def test_a_prompt_of_which_nothing_is_left_is_refused(bpe: Tokenizer) -> None:
    with pytest.raises(BadInput, match=r"data.max_prompt: the prompt of example 'a' has 0 tokens"):
        shortened([Example("a", "\N{GREEK SMALL LETTER ALPHA}" * 3, "yes", (0, 3))], bpe, 1)


PAIR = Example("pair", "Who?", "Nobody.", (0, 4), "Some say that it was the baker.")


def test_a_rejected_reply_is_closed_as_a_reference_is(bpe: Tokenizer) -> None:
    alone = Example("alone", "Why?", "So.", (0, 4))
    first, second, third = encode([PAIR, alone, PAIR], bpe)
    assert second.rejected is None
    assert first.rejected == third.rejected == bpe.responses([PAIR.rejected or ""])[0]
    assert (first.reference, second.reference) == tuple(bpe.responses(["Nobody.", "So."]))
    assert (first.response, second.response) == (len(first.rejected or ()), len(second.reference))


def test_limits_hold_for_both_replies_of_a_pair() -> None:
    sizes = [(5, 3, 4), (5, 4, 3), (5, 5, 1), (5, 1, 5), (6, 4, 4)]
    rows = [replace(encoded(p, chosen), rejected=[8] * rejected) for p, chosen, rejected in sizes]
    assert within(rows, 6, 4, 9) == rows[:2]
    assert within(rows, 6, 4) == [*rows[:2], rows[4]]


def test_a_batch_has_pairs_where_all_its_examples_are(bpe: Tokenizer) -> None:
    first, second = encode([PAIR, replace(PAIR, id="other", rejected="No.")], bpe)
    batch = collate([first, second])
    assert batch.rejected is not None
    assert batch.rejected.lengths.tolist() == [len(first.rejected or ()), len(second.rejected or ())]
    assert batch.rejected.ids[0].tolist() == first.rejected
    assert collate([first, replace(second, rejected=None)]).rejected is None


def test_a_shortened_prompt_keeps_both_replies(bpe: Tokenizer) -> None:
    (whole,) = encode([replace(PAIR, prompt="Who of them was it? Who?", span=(0, 20))], bpe)
    (cut,), count = shortened([whole.example], bpe, len(whole.prompt) - 1)
    assert count == 1
    assert cut == replace(whole, prompt=cut.prompt)
    assert len(cut.prompt) < len(whole.prompt)
