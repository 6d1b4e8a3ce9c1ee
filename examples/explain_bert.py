"""Which words does a sentiment classifier's prediction rest on? The model stays as transformers made it.

Run: python examples/explain_bert.py [--output FOLDER]
"""

import argparse
from pathlib import Path

import torch

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, explain
from attrib_plugin.app import bundled

TEXTS = ["A warm, funny and surprisingly wise little film.", "Two hours of clumsy jokes; I nearly fell asleep."]


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    sentiment = bundled.load("sentiment")
    model, tokenizer = sentiment.model, sentiment.tokenizer

    # 1. A batch of padded texts, as with any Captum class. Target None explains each text's predicted class.
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    relevance = GradientRollout(model).attribute(batch["input_ids"], additional_forward_args=(batch["attention_mask"],))
    for text, ids, row in zip(TEXTS, batch["input_ids"], relevance, strict=True):
        best = row.topk(3).indices
        print(f"{text}\n  most relevant tokens: {tokenizer.convert_ids_to_tokens(ids[best])}")

    # 2. Evidence for the class minus evidence against it, merged to words, as a page and a figure.
    explanation = explain(model, TEXTS[1], tokenizer=tokenizer, sign="signed")
    for word, value in zip(explanation.words, explanation.word_relevance.tolist(), strict=True):
        print(f"  {word.text:>12} {value:+.4f}")
    print(explanation.save(output / "bert.html"), explanation.save(output / "bert.png"))

    # 3. Other methods answer another question: these two do not know the class at all.
    for method in (RawAttention, AttentionRollout):
        shares = method(model).attribute(batch["input_ids"], forward_kwargs={"attention_mask": batch["attention_mask"]})
        print(f"{method.get_name()}: shares of {[round(float(total), 3) for total in shares.sum(-1)]} in all")

    # 4. Why this class and not the other: the difference of the two logits.
    contrast = GradientRollout(model, sign="signed").attribute(
        batch["input_ids"], target=1, against=0, forward_kwargs={"attention_mask": batch["attention_mask"]}
    )
    assert contrast.shape == batch["input_ids"].shape
    assert torch.equal(
        contrast[batch["attention_mask"] == 0], contrast.new_zeros(int((~batch["attention_mask"].bool()).sum()))
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output/examples"))
    main(parser.parse_args().output)
