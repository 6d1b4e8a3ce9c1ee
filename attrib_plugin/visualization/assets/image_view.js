// An image and its patches: where a chosen patch or prefix token attends to, or what attends to it.

function drawView(main, attention) {
  const [rows, columns] = facts.grid;
  const [height, width] = facts.size;
  const [patchHeight, patchWidth] = facts.patch;
  const state = { layer: facts.heads.length - 1, head: 0, from: 0, outwards: true, strength: 0.72 };
  const zoom = Math.min(560 / width, 520 / height);
  const picture = new Image();
  let base = null;

  const layers = layerSlider(state.layer, (layer) => { state.layer = layer; fitHeads(); update(); });
  const heads = slider("Head", { max: facts.heads[state.layer], value: 0, says: headName, changed: (place) => { state.head = place; update(); } });
  const direction = radios("Direction", [["out", "attends to"], ["in", "is attended to by"]], "out", (chosen) => { state.outwards = chosen === "out"; update(); });
  const strength = slider("Overlay", { max: 100, value: 72, says: (value) => `${value} %`, changed: (value) => { state.strength = value / 100; redraw(); } });
  const canvas = element("canvas", {
    tabindex: "0", role: "application", "aria-label": "Image patches. Click a patch, or move with the arrow keys.",
    click: (event) => choose(patchAt(event)), keydown: walk,
  });
  const prefix = element("div", { class: "prefix", role: "group", "aria-label": "Tokens that are no patch" },
    ...facts.queries.slice(0, facts.prefix).map((name, i) => element("button", { type: "button", click: () => choose(i) }, shown(name), element("span", { class: "share" }))));
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const scaleEnd = element("span", {}, "");
  const scale = element("span", { class: "scale overlay" }, element("span", {}, "0 %"), element("i", { "aria-hidden": "true" }), scaleEnd);
  const small = element("div", { class: "maps" });
  const side = element("div", { class: "side" });
  if (facts.prefix) side.append(element("h2", {}, "Tokens that are no patch"), prefix);
  side.append(readout, scale, element("h2", { class: "heads" }, "Heads of this layer"), small);
  main.append(
    ...heading(layers.whole, heads.whole, direction, strength.whole),
    element("div", { class: "stage" }, canvas, side),
    element("p", { class: "quiet" }, `Click a patch${facts.prefix ? " or a token that is no patch" : ""}; each map has a scale of its own. ${smallPrint()}`));

  function headName(place) {
    const count = facts.heads[state.layer];
    return place === 0 ? `mean of ${count}` : `${place - 1} of 0–${count - 1}`;
  }

  function fitHeads() {
    heads.input.max = facts.heads[state.layer];
    state.head = Math.min(state.head, facts.heads[state.layer]);
    heads.set(state.head);
  }

  function isPatch(token) { return token >= facts.prefix; }

  function named(token) {
    if (!isPatch(token)) return quoted(facts.queries[token]);
    const patch = token - facts.prefix;
    return `the patch in row ${Math.floor(patch / columns)}, column ${patch % columns}`;
  }

  function mapOf(place) {
    return place === 0 ? attention.mean(state.layer, numbers(facts.heads[state.layer])) : attention.head(state.layer, place - 1);
  }

  function sharesOf(map) {
    const count = attention.keys;
    return Float64Array.from({ length: count }, (_, i) => map.unit * map.steps[state.outwards ? state.from * count + i : i * count + state.from]);
  }

  function choose(token) {
    if (token === null) return;
    state.from = token;
    update();
  }

  function patchAt(event) {
    const scaled = width / canvas.clientWidth;
    const column = Math.floor((event.offsetX * scaled) / patchWidth);
    const row = Math.floor((event.offsetY * scaled) / patchHeight);
    return row >= 0 && column >= 0 && row < rows && column < columns ? facts.prefix + row * columns + column : null;
  }

  function walk(event) {
    const patch = Math.max(0, state.from - facts.prefix);
    const [row, column] = [Math.floor(patch / columns), patch % columns];
    const [down, across] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!(down || across)) return;
    event.preventDefault();
    const to = isPatch(state.from) ? [row + down, column + across] : [0, 0];
    if (to[0] >= 0 && to[1] >= 0 && to[0] < rows && to[1] < columns) choose(facts.prefix + to[0] * columns + to[1]);
  }

  function update() {
    state.shares = sharesOf(mapOf(state.head));
    const patches = state.shares.subarray(facts.prefix);
    state.most = Math.max(...patches);
    prefix.querySelectorAll("button").forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === state.from));
      button.lastChild.textContent = percent(state.shares[i]);
    });
    scaleEnd.textContent = percent(state.most);
    const best = facts.prefix + patches.indexOf(state.most);
    // What the prefix leaves; a sum over many rounded patches would be further off.
    const sum = 1 - state.shares.subarray(0, facts.prefix).reduce((total, share) => total + share, 0);
    const head = state.head === 0 ? `mean of ${counted(facts.heads[state.layer], "head")}` : `head ${state.head - 1}`;
    const subject = named(state.from);
    const units = facts.scales[state.layer].map((scale) => scale / (2 * facts.levels));
    const nothing = `${state.outwards ? "gives" : "gets"} less than ${percent(Math.max(...units))} ${state.outwards ? "to" : "from"} every patch, too little for this page.`;
    readout.textContent = `Layer ${state.layer}, ${head}: ${subject} ` + (state.most === 0 ? nothing : state.outwards
      ? `gives ${facts.prefix ? `${percent(sum)} of ` : ""}its attention to patches, most to ${named(best)}: ${percent(state.most)}.`
      : `gets most attention from ${named(best)}: ${percent(state.most)} of what that patch gives.`);
    redraw();
  }

  // The colours of one map over its patches, from white to the overlay's ink.
  function painted(shares, most) {
    const colors = ramp(color("overlay"), "#ffffff");
    const image = new ImageData(columns, rows);
    for (let patch = 0; patch < rows * columns; patch++) {
      const [red, green, blue] = colors[Math.round((255 * shares[facts.prefix + patch]) / (most || 1))];
      image.data.set([red, green, blue, 255], 4 * patch);
    }
    return image;
  }

  function drawSmall() {
    const count = facts.heads[state.layer];
    if (small.childElementCount !== count + 1) {
      small.replaceChildren(...Array.from({ length: count + 1 }, (_, place) =>
        element("button", { type: "button", "aria-label": place ? `head ${place - 1}` : "mean of the heads", title: place ? `head ${place - 1}` : "mean",
          click: () => { state.head = place; heads.set(place); update(); } },
          element("canvas", { width: columns, height: rows }), element("span", {}, place ? String(place - 1) : "mean"))));
    }
    Array.from(small.children).forEach((button, place) => {
      const shares = sharesOf(mapOf(place));
      button.setAttribute("aria-current", String(place === state.head));
      button.firstChild.getContext("2d").putImageData(painted(shares, Math.max(...shares.subarray(facts.prefix))), 0, 0);
    });
  }

  function draw() {
    if (!base) return;
    drawSmall();
    const pen = prepared(canvas, width * zoom, height * zoom);
    canvas.style.width = `${width * zoom}px`;
    canvas.style.height = "auto";
    pen.scale(zoom, zoom);
    pen.imageSmoothingEnabled = zoom < 1;
    pen.drawImage(picture, 0, 0);
    pen.globalAlpha = Math.min(1, state.strength / 0.3);
    pen.drawImage(base, 0, 0);
    pen.globalAlpha = state.strength;
    pen.imageSmoothingEnabled = false;
    const source = element("canvas", { width: columns, height: rows });
    source.getContext("2d").putImageData(painted(state.shares, state.most), 0, 0);
    pen.drawImage(source, 0, 0, columns * patchWidth, rows * patchHeight);
    pen.globalAlpha = 1;
    if (isPatch(state.from)) outline(pen, state.from - facts.prefix);
  }

  function outline(pen, patch) {
    const box = [(patch % columns) * patchWidth, Math.floor(patch / columns) * patchHeight, patchWidth, patchHeight];
    for (const [ink, thick] of [["#ffffff", 5], [color("chosen"), 3]]) {
      pen.strokeStyle = ink;
      pen.lineWidth = thick / zoom;
      pen.strokeRect(...box);
    }
  }

  // The image in light grey, so that the ink of the map is the only colour.
  function greyed() {
    const made = element("canvas", { width, height });
    const pen = made.getContext("2d");
    pen.drawImage(picture, 0, 0);
    const image = pen.getImageData(0, 0, width, height);
    for (let i = 0; i < image.data.length; i += 4) {
      const grey = 0.55 * ((image.data[i] + image.data[i + 1] + image.data[i + 2]) / 3) + 0.45 * 255;
      image.data.fill(grey, i, i + 3);
    }
    pen.putImageData(image, 0, 0);
    return made;
  }

  const redraw = redrawing(draw, null);
  canvas.width = width * zoom;
  canvas.height = height * zoom;
  picture.onload = () => { base = greyed(); redraw(); };
  picture.src = facts.image;
  update();
}
