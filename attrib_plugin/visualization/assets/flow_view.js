// The graph of attention between layers: tokens are rows, layers are columns, from the input on the left to the top.

const FEW_EDGES = 30;
const SMALLEST_FLOW = 1e-10;
// Beyond this the flow from every token at once would take more than a moment.
const MOST_FLOW_WORK = 4e6;

function drawView(main, attention) {
  const count = attention.queries;
  const depth = facts.heads.length;
  const raw = Array.from({ length: depth }, (_, layer) => {
    const map = attention.head(layer, 0);
    return Float64Array.from(map.steps, (step) => step * map.unit);
  });
  const state = { kind: "rollout", target: facts.target, source: -1, residual: facts.residual, least: 0, byHand: false };

  const kinds = radios("Edges", [["attention", "attention"], ["rollout", "rollout"], ["flow", "flow"]], state.kind, (kind) => {
    Object.assign(state, { kind, byHand: false });
    update();
  });
  const residual = slider("Residual path", { max: 95, step: 5, value: 100 * state.residual, says: (value) => `${value} %`, changed: (value) => { state.residual = value / 100; state.mixed = null; update(); } });
  const threshold = slider("Hide below", { max: 100, value: 0, says: (place) => says(fromPlace(place)), changed: (place) => { state.byHand = true; state.least = fromPlace(place); update(); } });
  const scaleEnd = element("span", {}, "");
  const scale = element("span", { class: "scale root" }, element("span", {}, "0"), element("i", { "aria-hidden": "true" }), scaleEnd);
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const inputs = tokenList("from", "Input tokens", facts.queries, { pointed: () => {}, picked: (index) => { state.source = index === state.source ? -1 : index; update(); } });
  const outputs = tokenList("to", "Tokens at the top", facts.queries, { pointed: () => {}, picked: (index) => { state.target = index < 0 ? facts.target : index; update(); } });
  const canvas = element("canvas", { role: "img", "aria-label": "Graph of attention between layers" });
  const names = Array.from({ length: depth + 1 }, (_, level) => element("span", { title: level ? `after layer ${level - 1}` : "input" }, level ? String(level - 1) : "in"));
  const { holder, redraw } = betweenLists(canvas, count, draw);
  main.append(
    ...heading(kinds, residual.whole, threshold.whole, scale), readout,
    element("div", { class: "columns" }, element("h2", {}, "input tokens"),
      element("h2", { class: "levels", "aria-label": "layers" }, ...names), element("h2", {}, "at the top"),
      inputs.whole, holder, outputs.whole),
    element("p", { class: "quiet" },
      "Choose a token at the top, and one of the input to see only what comes from it; click it again to take it back. " +
      "Attention is the mean over heads. Rollout: the share of the token at the top that passes along an edge. " +
      `Flow: one maximum flow; there may be others of the same size. ${smallPrint()}`));

  function says(value) { return state.kind === "flow" ? value.toFixed(3) : percent(value); }

  function fromPlace(place) { return (state.most ?? 0) * (place / 100) ** 2; }

  // Attention with the residual path, rows summing to one.
  function mixed() {
    if (state.mixed) return state.mixed;
    state.mixed = raw.map((map) => {
      const made = map.map((value) => value * (1 - state.residual));
      for (let i = 0; i < count; i++) {
        made[i * count + i] += state.residual;
        let sum = 0;
        for (let j = 0; j < count; j++) sum += made[i * count + j];
        for (let j = 0; sum > 0 && j < count; j++) made[i * count + j] /= sum;
      }
      return made;
    });
    return state.mixed;
  }

  function oneHot(index) {
    const made = new Float64Array(count);
    made[index] = 1;
    return made;
  }

  // How much of the target each token of each level holds, from the top down.
  function shares() {
    const levels = [oneHot(state.target)];
    for (let layer = depth - 1; layer >= 0; layer--) {
      const below = new Float64Array(count);
      const map = mixed()[layer];
      for (let i = 0; i < count; i++) {
        const share = levels[0][i];
        for (let j = 0; share > 0 && j < count; j++) below[j] += share * map[i * count + j];
      }
      levels.unshift(below);
    }
    return levels;
  }

  // How much of each token of each level comes from the source.
  function origins() {
    const levels = [state.source < 0 ? new Float64Array(count).fill(1) : oneHot(state.source)];
    for (const map of mixed()) {
      const above = new Float64Array(count);
      for (let i = 0; i < count; i++) for (let j = 0; j < count; j++) above[i] += map[i * count + j] * levels.at(-1)[j];
      levels.push(above);
    }
    return levels;
  }

  function rolloutEdges() {
    const [held, origin] = [shares(), origins()];
    return {
      inputs: held[0],
      edges: mixed().map((map, layer) => map.map((value, place) => {
        const [i, j] = [Math.floor(place / count), place % count];
        return held[layer + 1][i] * value * origin[layer][j];
      })),
    };
  }

  function flowEdges() {
    const network = new FlowNetwork(mixed(), count);
    let inputs = null;
    if (depth * count ** 3 <= MOST_FLOW_WORK) inputs = Float64Array.from({ length: count }, (_, source) => network.maximum(source, state.target).value);
    // With nothing chosen, flow starts where most of it can: its value needs one token to start from.
    const start = state.source >= 0 ? state.source : inputs ? inputs.indexOf(Math.max(...inputs)) : state.target;
    const { value, flows } = network.maximum(start, state.target);
    return { inputs, edges: flows, start, value };
  }

  // Edges that are large enough and lead, by others that are, to the target and from the source.
  function connected(edges, least) {
    const up = [new Uint8Array(count)];
    up[0][state.target] = 1;
    for (let layer = depth - 1; layer >= 0; layer--) {
      const below = new Uint8Array(count);
      for (let i = 0; i < count; i++) for (let j = 0; up[0][i] && j < count; j++) if (edges[layer][i * count + j] >= least) below[j] = 1;
      up.unshift(below);
    }
    const down = [new Uint8Array(count).fill(state.source < 0 ? 1 : 0)];
    if (state.source >= 0) down[0][state.source] = 1;
    for (let layer = 0; layer < depth; layer++) {
      const above = new Uint8Array(count);
      for (let i = 0; i < count; i++) for (let j = 0; j < count; j++) if (down[layer][j] && edges[layer][i * count + j] >= least) above[i] = 1;
      down.push(state.source < 0 ? new Uint8Array(count).fill(1) : above);
    }
    return (layer, i, j) => up[layer + 1][i] === 1 && down[layer][j] === 1;
  }

  function update() {
    const found = state.kind === "attention" ? { inputs: null, edges: raw } : state.kind === "rollout" ? rolloutEdges() : flowEdges();
    state.edges = found.edges;
    state.most = 0;
    for (const map of found.edges) for (const value of map) if (value > state.most) state.most = value;
    if (!state.byHand) state.least = fewEnough(found.edges);
    state.least = Math.min(state.least, state.most);
    threshold.set(state.most ? 100 * Math.sqrt(state.least / state.most) : 0);
    scaleEnd.textContent = says(state.most);
    residual.whole.hidden = state.kind === "attention";
    // No line for nothing, wherever the slider stands.
    const least = Math.max(state.least, SMALLEST_FLOW);
    const leads = state.kind === "attention" ? connected(found.edges, least) : () => true;
    state.lines = [];
    found.edges.forEach((map, layer) => map.forEach((value, place) => {
      const [i, j] = [Math.floor(place / count), place % count];
      if (value >= least && leads(layer, i, j)) state.lines.push([layer, i, j, value]);
    }));
    // The faint first, so that the strong lie on top.
    state.lines.sort((one, other) => one[3] - other[3]);
    inputs.show(found.start ?? state.source, found.inputs, says);
    outputs.show(state.target, null);
    tell(found);
    redraw();
  }

  function fewEnough(edges) {
    // Of attention, only edges that lead to the target are drawn in the end.
    const wanted = FEW_EDGES * depth * (state.kind === "attention" ? 4 : 1);
    const counts = new Uint32Array(1001);
    for (const map of edges) for (const value of map) counts[Math.floor((1000 * value) / (state.most || 1))] += 1;
    let lines = 0;
    let place = 1000;
    while (place > 0 && lines + counts[place] <= wanted) lines += counts[place--];
    return (state.most * place) / 1000 + (place ? state.most / 1000 : 0);
  }

  function tell(found) {
    const target = quoted(facts.queries[state.target]);
    const drawn = `${counted(state.lines.length, "edge")} of at least ${says(state.least)}`;
    const from = state.source < 0 ? "" : ` from ${quoted(facts.queries[state.source])}`;
    if (state.kind === "attention") readout.textContent = `Attention: ${drawn} lead${from} to ${target} at the top.${state.lines.length ? "" : " Lower the threshold to see more."}`;
    else if (state.kind === "rollout") {
      const whole = state.source < 0 ? strongest(found.inputs, facts.queries) : `${percent(found.inputs[state.source])} of it comes${from}`;
      readout.textContent = `Rollout to ${target} at the top: ${whole}. ${drawn}.`;
    } else readout.textContent = `Maximum flow from ${quoted(facts.queries[found.start])} to ${target} at the top: ${found.value.toFixed(4)}. ${drawn}.`;
  }

  function draw(pen, width, inSight) {
    const x = (level) => EDGE + (level * (width - 2 * EDGE)) / depth;
    const y = (token) => (token + 0.5) * ROW;
    pen.strokeStyle = color("accent");
    const touched = new Set([`${depth} ${state.target}`]);
    for (const [layer, i, j, value] of state.lines) {
      touched.add(`${layer} ${j}`).add(`${layer + 1} ${i}`);
      if (!inSight(y(i), y(j))) continue;
      // The root, since the residual path of one token is often far above all else.
      pen.globalAlpha = Math.max(0.12, Math.sqrt(value / state.most));
      pen.lineWidth = 1 + (2.5 * value) / state.most;
      pen.beginPath();
      pen.moveTo(x(layer), y(j));
      pen.lineTo(x(layer + 1), y(i));
      pen.stroke();
    }
    pen.globalAlpha = 1;
    for (let level = 0; level <= depth; level++) {
      for (let token = 0; token < count; token++) {
        if (!inSight(y(token), y(token))) continue;
        const isTouched = touched.has(`${level} ${token}`);
        const isEnd = (level === depth && token === state.target) || (level === 0 && token === state.source);
        pen.fillStyle = color(isEnd ? "mark" : isTouched ? "accent" : "line");
        pen.beginPath();
        pen.arc(x(level), y(token), isEnd ? 6 : isTouched ? 4 : 2, 0, 2 * Math.PI);
        pen.fill();
      }
    }
  }

  update();
}

const EDGE = 14;

// Maximum flow through layers by Dinic's algorithm; capacity of layer l from token j to token i: capacities[l][i * count + j].
class FlowNetwork {
  constructor(capacities, count) {
    Object.assign(this, { capacities, count, depth: capacities.length });
  }

  maximum(source, target) {
    this.flows = this.capacities.map((map) => new Float64Array(map.length));
    this.sink = this.depth * this.count + target;
    let value = 0;
    while (this.#rank(source)) {
      this.next = new Int32Array((this.depth + 1) * this.count);
      value += this.#push(source, Infinity);
    }
    return { value, flows: this.flows };
  }

  // The arc number of a node: first the tokens above it, then those below whose flow could be sent back.
  #arc(node, number) {
    const { count } = this;
    const [level, token] = [Math.floor(node / count), node % count];
    const upwards = number < count;
    const other = upwards ? number : number - count;
    const layer = upwards ? level : level - 1;
    if (layer < 0 || layer >= this.depth) return null;
    const place = upwards ? other * count + token : token * count + other;
    const room = upwards ? this.capacities[layer][place] - this.flows[layer][place] : this.flows[layer][place];
    return room > SMALLEST_FLOW ? { layer, place, room, node: (upwards ? level + 1 : level - 1) * count + other, sign: upwards ? 1 : -1 } : null;
  }

  // Distances from the source along arcs with room; whether the sink is reached.
  #rank(source) {
    this.ranks = new Int32Array((this.depth + 1) * this.count).fill(-1);
    this.ranks[source] = 0;
    const queue = [source];
    for (const node of queue) {
      for (let number = 0; number < 2 * this.count; number++) {
        const arc = this.#arc(node, number);
        if (!arc || this.ranks[arc.node] >= 0) continue;
        this.ranks[arc.node] = this.ranks[node] + 1;
        if (arc.node === this.sink) return true;
        queue.push(arc.node);
      }
    }
    return false;
  }

  #push(node, most) {
    if (node === this.sink) return most;
    let sent = 0;
    for (; this.next[node] < 2 * this.count && most - sent > SMALLEST_FLOW; this.next[node]++) {
      const arc = this.#arc(node, this.next[node]);
      if (!arc || this.ranks[arc.node] !== this.ranks[node] + 1) continue;
      const amount = this.#push(arc.node, Math.min(most - sent, arc.room));
      this.flows[arc.layer][arc.place] += arc.sign * amount;
      sent += amount;
      if (most - sent <= SMALLEST_FLOW) break;
    }
    return sent;
  }
}
