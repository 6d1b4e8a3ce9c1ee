// Lines from queries to keys, for one layer and some of its heads.

const MOST_LINES = 1500;
const N_COLORS = 8;

function drawView(main, attention) {
  const state = { layer: 0, heads: new Set(), mean: false, least: 0, byHand: false, pointed: null, pinned: null };

  const layers = layerSlider(0, (layer) => { state.layer = layer; chooseHeads(); update(); });
  const chips = element("fieldset", { class: "control", "aria-label": "Heads" });
  const mean = checkbox("mean of the chosen heads", false, (on) => { state.mean = on; update(); });
  const threshold = slider("Hide below", {
    max: 100, value: 0, says: (place) => percent(fromPlace(place)),
    changed: (place) => { state.byHand = true; state.least = fromPlace(place); update(); },
  });
  const scaleEnd = element("span", {}, "");
  const scale = element("span", { class: "scale" }, element("span", {}, "0 %"), element("i", { "aria-hidden": "true" }), scaleEnd);
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const [from, to] = facts.cross ? ["from: queries", "to: keys (the other sequence)"] : ["from", "to"];
  const pick = (side) => (index) => { state.pinned = index < 0 || isSame(state.pinned, side, index) ? null : { side, index }; update(); };
  const point = (side) => (index) => { state.pointed = index < 0 ? null : { side, index }; update(); };
  const queries = tokenList("from", "Tokens that attend", facts.queries, { pointed: point("from"), picked: pick("from") });
  const keys = tokenList("to", "Tokens attended to", facts.keys, { pointed: point("to"), picked: pick("to") });
  const canvas = element("canvas", { role: "img", "aria-label": "Lines of attention between the two lists" });
  const { holder, redraw } = betweenLists(canvas, Math.max(attention.queries, attention.keys), draw);
  main.append(
    ...heading(layers.whole, chips, mean.whole, threshold.whole, scale), readout,
    element("div", { class: "columns" }, element("h2", {}, from),
      element("h2", { class: "hint" }, "point at a token, click to keep it"), element("h2", {}, to),
      queries.whole, holder, keys.whole),
    element("p", { class: "quiet" }, `The darker a line, the larger the attention. ${smallPrint()}`));

  function isSame(one, side, index) { return one !== null && one.side === side && one.index === index; }

  // Small thresholds matter most, so the slider is quadratic.
  function fromPlace(place) { return state.most * (place / 100) ** 2 || 0; }

  function chooseHeads() {
    const count = facts.heads[state.layer];
    if (state.count === count) return;
    state.count = count;
    state.heads = new Set(numbers(count));
    state.mean = count > N_COLORS;
    mean.input.checked = state.mean;
    chips.replaceChildren(element("span", { class: "name" }, "Heads"));
    chips.append(
      ...numbers(count).map((head) => element("button", { type: "button", "aria-label": `head ${head}`, click: () => toggle(head) }, String(head))),
      element("button", { type: "button", click: () => { state.heads = new Set(numbers(count)); update(); } }, "all"),
      element("button", { type: "button", click: () => { state.heads.clear(); update(); } }, "none"));
  }

  function toggle(head) {
    if (!state.heads.delete(head)) state.heads.add(head);
    update();
  }

  // Colours go to the chosen heads in turn, so that up to eight are told apart whichever they are.
  function chosenHeads() {
    return [...state.heads].sort((a, b) => a - b).map((head, slot) => ({ head, slot: slot % N_COLORS }));
  }

  function update() {
    const chosen = chosenHeads();
    const slots = new Map(chosen.map((one) => [one.head, one.slot]));
    chips.querySelectorAll("[aria-label]").forEach((chip, head) => {
      const slot = state.mean ? "mean" : slots.get(head);
      chip.className = `chip swatch-${slot ?? "none"}`;
      chip.setAttribute("aria-pressed", String(slots.has(head)));
    });
    const maps = state.mean
      ? (chosen.length ? [{ ...attention.mean(state.layer, chosen.map((one) => one.head)), ink: "accent" }] : [])
      : chosen.map((one) => ({ ...attention.head(state.layer, one.head), ink: `head-${one.slot}` }));
    state.most = Math.max(0, ...maps.map(largest));
    if (!state.byHand) state.least = fewEnough(maps);
    threshold.set(state.most ? 100 * Math.sqrt(Math.min(1, state.least / state.most)) : 0);
    state.maps = maps;
    tell(chosen);
    redraw();
  }

  // The threshold that leaves at most MOST_LINES lines, counted in 512 classes of attention.
  function fewEnough(maps) {
    const counts = new Uint32Array(513);
    for (const map of maps) {
      const factor = (512 * map.unit) / (state.most || 1);
      for (const step of map.steps) counts[Math.min(512, Math.floor(step * factor))] += 1;
    }
    let lines = 0;
    let place = 512;
    while (place >= 0 && lines + counts[place] <= MOST_LINES) lines += counts[place--];
    return place < 0 ? Math.min(0.01, state.most / 20) : (state.most * (place + 1)) / 512;
  }

  // Attention of one map from or to one token.
  function lineShares(map, { side, index }) {
    const count = side === "from" ? attention.keys : attention.queries;
    return Float64Array.from({ length: count }, (_, i) => map.unit * map.steps[side === "from" ? index * attention.keys + i : i * attention.keys + index]);
  }

  function largestOf(map, focus) { return lineShares(map, focus).reduce((most, share) => Math.max(most, share), 0); }

  // The mean over the maps.
  function sharesOf(focus) {
    const shares = new Float64Array(focus.side === "from" ? attention.keys : attention.queries);
    for (const map of state.maps) lineShares(map, focus).forEach((share, i) => { shares[i] += share / state.maps.length; });
    return shares;
  }

  function tell(chosen) {
    const focus = state.pointed ?? state.pinned;
    const heads = chosen.length === 1 ? `head ${chosen[0].head}` : `mean of ${counted(chosen.length, "head")}`;
    queries.show(focus?.side === "from" ? focus.index : -1, focus?.side === "to" ? sharesOf(focus) : null);
    keys.show(focus?.side === "to" ? focus.index : -1, focus?.side === "from" ? sharesOf(focus) : null);
    // With one token pointed at, its own strongest line is the darkest.
    state.darkest = focus ? Math.max(0, ...state.maps.map((map) => largestOf(map, focus))) : state.most;
    scaleEnd.textContent = percent(state.darkest);
    scale.style.setProperty("--to", `var(--${state.mean ? "accent" : "ink"})`);
    if (!chosen.length) readout.textContent = "No head is chosen.";
    else if (!focus) readout.textContent = `Layer ${state.layer}, ${counted(chosen.length, "head")}: ${counted(linesDrawn(), "line")} of at least ${percent(state.least)}.${!state.mean && chosen.length > N_COLORS ? " Colours repeat after eight heads." : ""}`;
    else if (focus.side === "from") readout.textContent = `Layer ${state.layer}, ${heads}: ${quoted(facts.queries[focus.index])} attends to ${strongest(sharesOf(focus), facts.keys)}.`;
    else readout.textContent = `Layer ${state.layer}, ${heads}: ${quoted(facts.keys[focus.index])} is attended to by ${strongest(sharesOf(focus), facts.queries)}.`;
  }

  function linesDrawn() {
    let count = 0;
    for (const map of state.maps) {
      const least = Math.max(state.least / map.unit, 1e-9);
      for (const step of map.steps) if (step >= least) count++;
    }
    return count;
  }

  function draw(pen, width, inSight) {
    const focus = state.pointed ?? state.pinned;
    pen.lineWidth = 1.8;
    state.maps.forEach((map, number) => {
      pen.strokeStyle = color(map.ink);
      // Lines of several heads between the same tokens lie side by side.
      const shift = (number - (state.maps.length - 1) / 2) * Math.min(1.6, 12 / state.maps.length);
      const line = (query, key, least) => {
        const share = map.steps[query * attention.keys + key] * map.unit;
        const [left, right] = [(query + 0.5) * ROW + shift, (key + 0.5) * ROW + shift];
        if (share < least || share === 0 || !inSight(left, right)) return;
        pen.globalAlpha = Math.max(0.04, share / state.darkest);
        pen.beginPath();
        pen.moveTo(0, left);
        pen.lineTo(width, right);
        pen.stroke();
      };
      if (focus?.side === "from") for (let key = 0; key < attention.keys; key++) line(focus.index, key, state.darkest / 200);
      else if (focus) for (let query = 0; query < attention.queries; query++) line(query, focus.index, state.darkest / 200);
      else for (let query = 0; query < attention.queries; query++) for (let key = 0; key < attention.keys; key++) line(query, key, state.least);
    });
  }

  chooseHeads();
  update();
}
