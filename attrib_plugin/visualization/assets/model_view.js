// All layers and heads as small maps; one of them large, in a dialog.

const SMALL = 64;
const LARGE = 512;

function drawView(main, attention) {
  const state = { common: false, faint: attention.keys > 100, layer: 0, head: 0, query: 0, key: 0 };
  const most = facts.heads.map((count, layer) => numbers(count).map((head) => largest(attention.head(layer, head))));
  const highest = Math.max(...most.flat());
  const columns = Math.max(...facts.heads);
  const pooled = facts.heads.map((count, layer) => numbers(count).map((head) => pool(attention.head(layer, head), SMALL)));

  const common = checkbox("one scale for all heads", false, (on) => { state.common = on; redraw(); });
  const faint = checkbox("brighten faint attention", state.faint, (on) => { state.faint = on; redraw(); });
  const scale = element("span", { class: "scale" });
  const grid = element("div", { class: "maps" });
  grid.style.gridTemplateColumns = `max-content repeat(${columns}, minmax(34px, 76px))`;
  grid.append(element("span"), ...numbers(columns).map((head) => element("span", {}, `head ${head}`)));
  if (columns > 12) grid.querySelectorAll("span").forEach((label) => { label.textContent = label.textContent.replace("head ", ""); });
  const buttons = facts.heads.map((count, layer) => {
    const ofLayer = numbers(count).map((head) => element("button", {
      type: "button", "aria-label": `layer ${layer}, head ${head}`, title: `layer ${layer}, head ${head}: at most ${percent(most[layer][head])}`,
      click: () => open(layer, head), keydown: (event) => walk(event, layer, head),
    }, element("canvas", { width: pooled[layer][head].width, height: pooled[layer][head].height })));
    grid.append(element("span", { class: "row" }, `layer ${layer}`), ...ofLayer, ...numbers(columns - count).map(() => element("span")));
    return ofLayer;
  });

  const name = element("h2");
  const canvas = element("canvas", { tabindex: "0", role: "application", "aria-label": "Attention map. Arrow keys move from cell to cell." });
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const dialog = element("dialog", { "aria-label": "One head, enlarged" },
    element("header", {}, name, element("span", { class: "control action" },
      element("button", { type: "button", click: () => step(0, -1) }, "← head"), element("button", { type: "button", click: () => step(0, 1) }, "head →"),
      element("button", { type: "button", click: () => step(-1, 0) }, "↑ layer"), element("button", { type: "button", click: () => step(1, 0) }, "layer ↓"),
      element("button", { type: "button", click: () => dialog.close() }, "Close"))),
    canvas, readout);
  dialog.addEventListener("close", () => { mark(null); buttons[state.layer][state.head].focus(); });
  main.append(
    ...heading(common.whole, faint.whole, scale), grid, dialog,
    element("p", { class: "quiet" },
      `Each map: ${facts.cross ? "queries down, keys (the other sequence) across" : "tokens that attend down, tokens attended to across"}. Click one to enlarge it. ` +
      `${attention.queries > SMALL || attention.keys > SMALL ? "Small maps show the largest attention of each block of tokens. " : ""}${smallPrint()}`));

  // The map in at most side x side cells, each the largest of its block: thin diagonals stay visible.
  function pool(map, side) {
    const width = Math.min(side, attention.keys);
    const height = Math.min(side, attention.queries);
    const cells = new Float32Array(width * height);
    const column = Int32Array.from({ length: attention.keys }, (_, key) => Math.floor((key * width) / attention.keys));
    for (let query = 0; query < attention.queries; query++) {
      const start = Math.floor((query * height) / attention.queries) * width;
      const row = query * attention.keys;
      for (let key = 0; key < attention.keys; key++) {
        const value = map.steps[row + key];
        if (value > cells[start + column[key]]) cells[start + column[key]] = value;
      }
    }
    for (let i = 0; i < cells.length; i++) cells[i] *= map.unit;
    return { cells, width, height };
  }

  function paint(pooledMap, top) {
    const colors = ramp(color("accent"));
    const image = new ImageData(pooledMap.width, pooledMap.height);
    pooledMap.cells.forEach((value, i) => {
      const share = Math.min(1, value / (top || 1));
      const [red, green, blue] = colors[Math.round(255 * (state.faint ? Math.sqrt(share) : share))];
      image.data.set([red, green, blue, 255], 4 * i);
    });
    return image;
  }

  function topOf(layer, head) { return state.common ? highest : most[layer][head]; }

  function drawSmall() {
    buttons.forEach((ofLayer, layer) => ofLayer.forEach((button, head) =>
      button.firstChild.getContext("2d").putImageData(paint(pooled[layer][head], topOf(layer, head)), 0, 0)));
    scale.classList.toggle("root", state.faint);
    const end = state.common ? percent(highest) : "largest of the head";
    scale.replaceChildren(element("span", {}, "0 %"), element("i", { "aria-hidden": "true" }), element("span", {}, end));
    if (dialog.open) drawLarge();
  }

  function mark(button) {
    buttons.flat().forEach((one) => one.setAttribute("aria-current", String(one === button)));
  }

  function open(layer, head) {
    Object.assign(state, { layer, head });
    mark(buttons[layer][head]);
    name.textContent = `Layer ${layer}, head ${head}`;
    if (!dialog.open) dialog.showModal();
    drawLarge();
    tell();
  }

  function step(down, across) {
    const layer = (state.layer + down + facts.heads.length) % facts.heads.length;
    const count = facts.heads[layer];
    open(layer, across ? (state.head + across + count) % count : Math.min(state.head, count - 1));
  }

  function walk(event, layer, head) {
    const [down, across] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    const next = buttons[layer + down]?.[head + across];
    if (!next || !(down || across)) return;
    next.focus();
    event.preventDefault();
  }

  // Where the cells lie in the large canvas; labels take the margin, where there is room for them.
  function layout() {
    const labelled = Math.max(attention.queries, attention.keys) <= 40;
    const pen = canvas.getContext("2d");
    pen.font = FONT;
    const margin = labelled ? 12 + Math.min(130, Math.max(...[...facts.queries, ...facts.keys].map((token) => pen.measureText(shown(token)).width))) : 0;
    const room = { width: Math.min(window.innerWidth - 90, 760) - margin, height: Math.max(220, window.innerHeight - 170) - margin };
    const cell = Math.min(room.width / attention.keys, room.height / attention.queries, 34);
    const side = labelled ? Math.max(cell, 15) : cell;
    return { labelled, margin, side, width: side * attention.keys, height: side * attention.queries };
  }

  function drawLarge() {
    const { labelled, margin, side, width, height } = layout();
    const map = attention.head(state.layer, state.head);
    const picture = paint(pool(map, LARGE), topOf(state.layer, state.head));
    const source = element("canvas", { width: picture.width, height: picture.height });
    source.getContext("2d").putImageData(picture, 0, 0);
    canvas.style.width = `${margin + width}px`;
    const pen = prepared(canvas, margin + width, margin + height);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(source, margin, margin, width, height);
    pen.strokeStyle = color("line");
    pen.strokeRect(margin + 0.5, margin + 0.5, width - 1, height - 1);
    pen.fillStyle = color("ink");
    pen.font = FONT;
    pen.textBaseline = "middle";
    if (labelled) {
      facts.queries.forEach((token, i) => { pen.textAlign = "right"; label(pen, token, margin - 6, margin + (i + 0.5) * side, 0); });
      facts.keys.forEach((token, i) => { pen.textAlign = "left"; label(pen, token, margin + (i + 0.5) * side, margin - 6, -Math.PI / 2); });
    }
    pen.strokeStyle = color("mark");
    pen.lineWidth = 2;
    pen.strokeRect(margin + state.key * side - 1, margin + state.query * side - 1, side + 2, side + 2);
  }

  function label(pen, token, x, y, angle) {
    let text = shown(token);
    while (text.length > 1 && pen.measureText(text).width > 130) text = `${text.slice(0, -2)}…`;
    pen.save();
    pen.translate(x, y);
    pen.rotate(angle);
    pen.fillText(text, 0, 0);
    pen.restore();
  }

  function tell() {
    const map = attention.head(state.layer, state.head);
    const share = map.steps[state.query * attention.keys + state.key] * map.unit;
    readout.textContent = `${quoted(facts.queries[state.query])} (${state.query}) attends to ${quoted(facts.keys[state.key])} (${state.key}): ${percent(share)}; the head's largest is ${percent(most[state.layer][state.head])}.`;
  }

  function moveTo(query, key) {
    if (query < 0 || key < 0 || query >= attention.queries || key >= attention.keys) return;
    Object.assign(state, { query, key });
    tell();
    redraw();
  }

  canvas.addEventListener("pointermove", (event) => {
    const { margin, side } = layout();
    moveTo(Math.floor((event.offsetY - margin) / side), Math.floor((event.offsetX - margin) / side));
  });
  canvas.addEventListener("keydown", (event) => {
    const [down, across] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!(down || across)) return;
    moveTo(state.query + down, state.key + across);
    event.preventDefault();
  });

  const redraw = redrawing(drawSmall, null);
  window.addEventListener("resize", redraw);
  drawSmall();
}

const FONT = '13px system-ui, "DejaVu Sans", sans-serif';
