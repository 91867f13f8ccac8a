"""``attncast accelerator`` as a user and a program see it."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("name", ["flat", "unfused", "cascade", "arch", "binding"])
@pytest.mark.parametrize("model", ["bert", "trxl", "t5", "xlm"])
def test_json_has_the_promised_form(attncast, name, model):
    status, out, err = attncast("accelerator", "-a", name, "-m", model, "-s", "65536", "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["schema", "latency_s", "traffic_bytes", "energy_pj", "util_2d", "util_1d"]
    assert document["schema"] == 1
    assert all(value > 0 for value in document.values())


def test_text_and_end_to_end(attncast):
    status, out, _ = attncast("accelerator", "-a", "binding", "-m", "BERT", "-s", "64K")
    assert status == 0
    assert "7.40 s" in out
    assert "99.1%" in out
    assert "go by 2 times" in out
    status, out, _ = attncast("accelerator", "-a", "binding", "-m", "bert", "-s", "64K", "--end-to-end", "--json")
    assert json.loads(out)["latency_s"] == pytest.approx(7.402500 + 0.481899, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-a", "bindng", "-m", "bert", "-s", "1"], "did you mean 'binding'?"),
        (["-a", "binding", "-m", "brt", "-s", "1"], "did you mean 'bert'?"),
        (["-a", "binding", "-m", "bert", "-s", "many"], "'many' is not clear"),
        (["-a", "binding", "-m", "bert", "-s", "0"], "sequence length 0 is impossible"),
        (["-a", "./no.toml", "-m", "bert", "-s", "1"], "cannot read binding file './no.toml'"),
    ],
)
def test_mistakes_end_with_one_sentence(attncast, arguments, says):
    status, out, err = attncast("accelerator", *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
