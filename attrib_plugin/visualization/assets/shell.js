// What every view uses: its data, elements, controls, a list of tokens, a canvas. Texts become text nodes, never HTML.

const facts = JSON.parse(document.querySelector("script.facts").textContent);

// ---- the attention

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpacked(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return facts.bits === 16 ? new Uint16Array(buffer) : new Uint8Array(buffer);
}

// Attention by layer and head, as rows of queries; numbers count steps of scale / levels.
class Attention {
  constructor(numbers) {
    this.numbers = numbers;
    this.queries = facts.queries.length;
    this.keys = facts.keys.length;
    this.size = this.queries * this.keys;
    this.first = [];
    let count = 0;
    for (const heads of facts.heads) {
      this.first.push(count);
      count += heads;
    }
  }

  // {steps, unit}: the map is steps[query * keys + key] * unit.
  head(layer, head) {
    const start = (this.first[layer] + head) * this.size;
    return { steps: this.numbers.subarray(start, start + this.size), unit: facts.scales[layer][head] / facts.levels };
  }

  // The mean of some heads, in the same form.
  mean(layer, heads) {
    const steps = new Float32Array(this.size);
    for (const head of heads) {
      const map = this.head(layer, head);
      for (let i = 0; i < steps.length; i++) steps[i] += map.steps[i] * map.unit;
    }
    return { steps, unit: 1 / Math.max(heads.length, 1) };
  }
}

function largest(map) {
  let most = 0;
  for (const step of map.steps) if (step > most) most = step;
  return most * map.unit;
}

// ---- elements and controls

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function slider(name, { min = 0, max, step = 1, value, says, changed }) {
  const output = element("output", {}, says(value));
  const input = element("input", { type: "range", min, max, step, value, "aria-label": name, "aria-valuetext": says(value) });
  const set = (number) => {
    input.value = number;
    output.textContent = says(number);
    input.setAttribute("aria-valuetext", says(number));
  };
  input.addEventListener("input", () => {
    set(Number(input.value));
    changed(Number(input.value));
  });
  const whole = element("label", { class: "control" }, element("span", { class: "name" }, name), input, output);
  return { whole, set, input };
}

function layerSlider(value, changed) {
  const made = slider("Layer", { max: facts.heads.length - 1, value, says: (layer) => `${layer} of 0–${facts.heads.length - 1}`, changed });
  made.whole.hidden = facts.heads.length === 1;
  return made;
}

function radios(name, choices, chosen, changed) {
  const group = element("fieldset", { class: "control", "aria-label": name }, element("span", { class: "name" }, name));
  for (const [value, text] of choices) {
    const input = element("input", { type: "radio", name, value, change: () => changed(value) });
    input.checked = value === chosen;
    group.append(element("label", {}, input, text));
  }
  return group;
}

function checkbox(text, checked, changed) {
  const input = element("input", { type: "checkbox", change: () => changed(input.checked) });
  input.checked = checked;
  return { whole: element("label", { class: "control" }, element("span", {}, input, text)), input };
}

// ---- words and numbers

function percent(share) {
  const value = 100 * share;
  return `${value === 0 ? "0" : value >= 0.1 ? value.toFixed(1) : value >= 1e-4 ? value.toFixed(Math.ceil(-Math.log10(value))) : value.toExponential(0)}\u00a0%`;
}

function shown(token) {
  if (token === "") return "∅";
  const visible = token.replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  return visible.trim() === "" ? visible.replace(/\s/gu, "␣") : visible;
}

function quoted(token) {
  const letters = Array.from(shown(token));
  return `“${letters.length > 24 ? `${letters.slice(0, 23).join("")}…` : letters.join("")}”`;
}

// 0, 1, ... below a count.
const numbers = (count) => Array.from({ length: count }, (_, i) => i);

function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

// The largest few shares with their names, as a sentence.
function strongest(shares, names, count = 4) {
  const order = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]).slice(0, count);
  return order.filter((i) => shares[i] > 0).map((i) => `${quoted(names[i])} ${percent(shares[i])}`).join(", ") || "nothing";
}

// ---- colours

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function channels(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// 256 colours from paper to ink, as [red, green, blue].
function ramp(ink, paper = color("paper")) {
  const [from, to] = [channels(paper), channels(ink)];
  return Array.from({ length: 256 }, (_, i) => from.map((channel, c) => Math.round(channel + ((to[c] - channel) * i) / 255)));
}

// ---- a canvas as sharp as the screen, within what browsers allow

const MOST_PIXELS = 3.2e7;

function prepared(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 16000 / height, Math.sqrt(MOST_PIXELS / (width * height)));
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(canvas.width / width, canvas.height / height);
  return pen;
}

// Draws again when the width, the colours or the medium change; many calls in one frame draw once.
function redrawing(draw, watched) {
  let waiting = false;
  let width = watched?.clientWidth;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
  const resized = () => {
    if (watched.clientWidth !== width) redraw();
    width = watched.clientWidth;
  };
  if (watched) new ResizeObserver(resized).observe(watched);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.matchMedia("print").addEventListener("change", draw);
  return redraw;
}

// A drawing between two lists of tokens. Of a tall one only what is in sight is drawn, and all of it for print.
const TALL = 2400;
const BEYOND = 500;

function betweenLists(canvas, rows, draw) {
  const height = ROW * rows;
  const holder = element("div", { class: "between" }, canvas);
  holder.style.height = `${height}px`;
  let part = { top: 0, height };
  const seen = () => {
    const top = Math.max(0, Math.min(height, -holder.getBoundingClientRect().top));
    return { top, bottom: Math.min(height, top + window.innerHeight) };
  };
  const drawPart = () => {
    const width = holder.clientWidth;
    const { top, bottom } = height <= TALL || window.matchMedia("print").matches ? { top: 0, bottom: height } : seen();
    const first = Math.max(0, Math.floor(top - BEYOND));
    part = { top: first, height: Math.min(height, bottom + BEYOND) - first };
    canvas.style.top = `${part.top}px`;
    const pen = prepared(canvas, width, part.height);
    pen.translate(0, -part.top);
    draw(pen, width, (y1, y2) => Math.max(y1, y2) >= part.top && Math.min(y1, y2) <= part.top + part.height);
  };
  const redraw = redrawing(drawPart, holder);
  const moved = () => {
    const { top, bottom } = seen();
    if (top < part.top || bottom > part.top + part.height) redraw();
  };
  window.addEventListener("scroll", moved, { passive: true });
  window.addEventListener("resize", moved);
  return { holder, redraw };
}

// ---- a list of tokens: point at one, walk with the arrow keys, choose with a click, Enter or the space bar

const ROW = 24;

function tokenList(side, label, tokens, { pointed, picked }) {
  const rows = tokens.map((token, i) =>
    element("li", { role: "option", id: `${side}-${i}`, "aria-selected": "false", title: shown(token) },
      element("span", { class: "token" }, shown(token)), element("span", { class: "share" })));
  const whole = element("ul", { class: `tokens ${side}`, role: "listbox", "aria-label": label, tabindex: "0" }, ...rows);
  const indexOf = (event) => rows.indexOf(event.target.closest("li"));
  let active = -1;
  const activate = (index) => {
    rows[active]?.classList.remove("active");
    active = index;
    rows[active]?.classList.add("active");
    if (index < 0) whole.removeAttribute("aria-activedescendant");
    else whole.setAttribute("aria-activedescendant", rows[index].id);
    pointed(index);
  };
  whole.addEventListener("pointerover", (event) => { if (indexOf(event) !== active) activate(indexOf(event)); });
  whole.addEventListener("pointerleave", () => activate(-1));
  whole.addEventListener("blur", () => activate(-1));
  whole.addEventListener("click", (event) => { if (indexOf(event) >= 0) picked(indexOf(event)); });
  whole.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: active + 1, ArrowUp: active - 1, Home: 0, End: rows.length - 1 };
    if (event.key in moves) {
      activate(Math.max(0, Math.min(rows.length - 1, moves[event.key])));
      rows[active].scrollIntoView({ block: "nearest" });
    } else if ((event.key === "Enter" || event.key === " ") && active >= 0) picked(active);
    else if (event.key === "Escape") picked(-1);
    else return;
    event.preventDefault();
  });
  // chosen: index or -1; shares: one number a token, or null.
  const show = (chosen, shares, says = percent) => {
    const most = shares ? Math.max(...shares, 1e-12) : 1;
    rows.forEach((row, i) => {
      const share = shares ? shares[i] : 0;
      row.classList.toggle("chosen", i === chosen);
      row.setAttribute("aria-selected", String(i === chosen));
      row.classList.toggle("lit", share > 0);
      row.style.setProperty("--strength", `${Math.round((45 * share) / most)}%`);
      row.lastChild.textContent = share >= 0.0005 ? says(share) : "";
    });
  };
  return { whole, show };
}

// ---- starting

function heading(...controls) {
  return [element("h1", {}, facts.title), element("div", { class: "controls" }, ...controls)];
}

function smallPrint() {
  const error = Math.max(...facts.scales.flat()) / (2 * facts.levels);
  return `Attention is rounded to ${facts.bits} bits: off by at most ${percent(error).replace("%", "percentage points")}. ` +
    "Layers and heads are counted from 0. Attention says where a model looks, not what its answer rests on.";
}

async function start(view) {
  const main = document.querySelector("main");
  document.title = facts.title;
  const say = (text) => main.replaceChildren(element("h1", {}, facts.title), element("p", { class: "message", role: "alert" }, text));
  if (typeof DecompressionStream === "undefined") {
    say("This browser cannot unpack the page. It needs Chrome or Edge 111, Safari 16.4, Firefox 113, or newer.");
    return;
  }
  try {
    const store = document.querySelector("script.data");
    const attention = new Attention(await unpacked(store.textContent));
    store.textContent = "";
    main.replaceChildren();
    view(main, attention);
    main.setAttribute("aria-busy", "false");
  } catch (problem) {
    say(`The page could not be drawn: ${problem.message}`);
    console.error(problem);
  }
}
