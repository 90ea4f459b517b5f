"""By hand on a transformer of one layer, width 2, vocabulary 3: 12 L d^2 = 48 weights, and 6 of the vocabulary."""

import pytest

from esolab.bench.roofline import Lengths, Need, Rates, Shape, decoding, least_seconds, reading, scoring, weight_bytes

SHAPE = Shape(layers=1, width=2, vocabulary=3, item=4)
ONE = Lengths(prompts=[3], answers=[[2, 1]], references=[2])


def test_reading():
    """3 tokens x 2 x 48 = 288, and 1 + 2 + 3 = 6 looks x 4 L d = 8 make 48; one place x 2 x 6; 54 weights x 4 bytes."""
    assert reading(SHAPE, ONE) == Need(body=336, vocabulary=12, bytes=216)


def test_decoding():
    """Only the first token of the longer answer predicts another: 96 + (3 + 1) x 8. One step reads the weights,
    and the keys and values (2 L d = 4 numbers) of 3 prompt tokens and 1 own."""
    assert decoding(SHAPE, ONE) == Need(body=128, vocabulary=12, bytes=216 + 4 * 4 * 4)


def test_decoding_reads_a_prompt_once_whatever_k_is():
    alone, many = (decoding(SHAPE, Lengths([3], [[2] * k], [2])) for k in (1, 8))
    assert many.body == 8 * alone.body
    assert many.bytes - alone.bytes == 4 * 4 * 7  # seven more own tokens


def test_scoring():
    """Tokens 1 + 0 + 1 with 4 + 0 + 4 looks, three forwards: 3 x (192 + 64); the prompt backward: 2 x 336. Places: 2
    and the last of the prompt, which predicts all first tokens."""
    assert scoring(SHAPE, ONE) == Need(body=768 + 672, vocabulary=3 * 3 * 12, bytes=3 * 216)


def test_an_answer_of_no_token_costs_nothing():
    nothing = Lengths([3], [[2, 1, 0]], [2])
    assert scoring(SHAPE, nothing) == scoring(SHAPE, ONE)
    assert decoding(SHAPE, nothing) == decoding(SHAPE, ONE)


def test_least_seconds_where_computing_is_the_limit():
    rates = Rates(decode_body=64.0, decode_vocabulary=12.0, score_body=336.0, score_vocabulary=12.0, copy=1000.0)
    least = least_seconds(SHAPE, ONE, rates)
    assert least["sample"] == pytest.approx((336 / 336 + 12 / 12) + (128 / 64 + 12 / 12))
    assert least["update"] == pytest.approx(1440 / 336 + 108 / 12)
    assert least["reward"] == 0


def test_least_seconds_where_memory_is_the_limit():
    rates = Rates(decode_body=1e9, decode_vocabulary=1e9, score_body=1e9, score_vocabulary=1e9, copy=8.0)
    least = least_seconds(SHAPE, ONE, rates)
    assert least["sample"] == pytest.approx((216 + 280) / 8)
    assert least["update"] == pytest.approx(648 / 8)


def test_gpt2_has_as_many_weights_as_its_parameters_but_positions_biases_and_norms():
    assert weight_bytes(Shape(12, 768, 50257)) == 4 * (12 * 12 * 768**2 + 50257 * 768)
