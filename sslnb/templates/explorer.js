"use strict";
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), n = data.label.length, sheet = new Image();
const calm = matchMedia("(prefers-reduced-motion: reduce)"), night = matchMedia("(prefers-color-scheme: dark)");
const PALETTE = {  // apart for all kinds of colour blindness (least ΔE 18), and from the paper (contrast 3 and more)
  light: ["#00549b", "#ce6509", "#088a47", "#c16c9f", "#5d4d03", "#3a99de", "#7232c5", "#5e6266"],
  dark: ["#73abe9", "#f7915a", "#4ed293", "#e8a0c5", "#e8d44d", "#b1e3ff", "#a767fd", "#eee6dd"]};
const SHAPES = [[], [[-.85, -.85], [.85, -.85], [.85, .85], [-.85, .85]], [[0, -1.15], [1.05, .8], [-1.05, .8]],  // [] is a circle
                [[0, -1.25], [1.1, 0], [0, 1.25], [-1.1, 0]],
                [[-.4, -1.1], [.4, -1.1], [.4, -.4], [1.1, -.4], [1.1, .4], [.4, .4], [.4, 1.1], [-.4, 1.1], [-.4, .4], [-1.1, .4], [-1.1, -.4], [-.4, -.4]]];
const state = {encoder: 0, map: data.maps[0][0], colouring: "", pinned: -1, current: -1, alone: null};
const view = {scale: 1, x: 500, y: 500};  // the part of the map that is seen: how enlarged, and its middle
let at = [], stamps = new Map(), colours, drag = null, frame = 0, moving = 0, stale = false;

// What is known of images

const encoder = () => data.encoders[state.encoder];
const near = i => encoder().near.slice(i * data.k, (i + 1) * data.k);
const named = c => data.classes[c] ?? "no label";
const alike = (i, j) => data.label[i] >= 0 && data.label[i] === data.label[j];
const right = i => encoder().predicted?.[i] === data.label[i];
const average = (some, of) => some.reduce((sum, i) => sum + of(i), 0) / some.length;
const percent = share => `${Math.round(100 * share)} %`;
const all = [...Array(n).keys()], labelled = all.filter(i => data.label[i] >= 0);
const COLOURINGS = {
  "class": {there: data.classes.length, names: () => data.classes, of: i => data.label[i],
            note: some => encoder().predicted ? `${some.length}, ${percent(some.filter(right).length / some.length)} right` : some.length},
  "cluster": {there: true, names: () => Array.from({length: Math.max(...encoder().cluster) + 1}, (_, c) => `cluster ${c + 1}`), of: i => encoder().cluster[i],
              note: some => { const [c, most] = commonest(some); return c < 0 ? some.length : `${some.length}, ${percent(most / some.length)} ${named(c)}`; }},
  "right or wrong": {there: data.encoders.some(e => e.predicted), names: () => ["right", "wrong"], of: i => data.label[i] < 0 ? -1 : right(i) ? 0 : 1,
                     note: some => `${some.length}, ${percent(some.length / n)}`}};
const colouring = () => COLOURINGS[state.colouring];

function commonest(some) {
  const counts = new Map();
  for (const i of some) counts.set(data.label[i], (counts.get(data.label[i]) ?? 0) + 1);
  return [...counts].reduce((a, b) => b[1] > a[1] ? b : a, [-1, 0]);
}

function summary() {
  if (!labelled.length) return "";
  const sizes = data.classes.map((_, c) => labelled.filter(i => data.label[i] === c).length);
  const mean = average(labelled, i => near(i).filter(j => alike(i, j)).length);
  const chance = average(labelled, i => sizes[data.label[i]] - 1) * data.k / (n - 1);
  const said = `Of an image's ${data.k} nearest neighbours, ${mean.toFixed(1)} are of its class on average (by chance ${chance.toFixed(1)}).`;
  return encoder().predicted ? `${said} A linear probe is right for ${percent(labelled.filter(right).length / labelled.length)}.` : said;
}

// The map

const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dim = i => state.alone !== null && colouring().of(i) !== state.alone;

const whole = x => Math.round(x * devicePixelRatio) / devicePixelRatio;  // whole pixels are drawn faster

function measure() {  // the canvas in CSS pixels, and how many of them are one unit of the map
  const {width, height} = $("plot").getBoundingClientRect(), reach = [1, 1];
  at.forEach((x, i) => { reach[i % 2] = Math.max(reach[i % 2], 2 * Math.abs(x - 500)); });
  const radius = (n > 2000 ? 2.6 : n > 500 ? 3.6 : 4.6) * Math.sqrt(view.scale);
  Object.assign(view, {width, height, radius, pictures: $("pictures").checked, unit: Math.min((width - 32) / reach[0], (height - 32) / reach[1]) * view.scale});
}

const place = i => [view.width / 2 + (at[2 * i] - view.x) * view.unit, view.height / 2 + (at[2 * i + 1] - view.y) * view.unit];  // on it

function stamp(group, r) {  // a drawn point
  const key = `${group} ${r}`;
  if (stamps.has(key)) return stamps.get(key);
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d"), shape = group < 0 ? [] : SHAPES[group % SHAPES.length];
  canvas.width = canvas.height = Math.ceil(3.4 * r * devicePixelRatio);
  pen.scale(canvas.width / 3.4, canvas.width / 3.4);
  pen.translate(1.7, 1.7);
  pen.beginPath();
  if (!shape.length) pen.arc(0, 0, 1, 0, 7);
  for (const point of shape) pen.lineTo(...point);
  pen.closePath();
  pen.lineWidth = .5;
  pen.strokeStyle = style("--paper");
  pen.stroke();
  pen.fillStyle = group < 0 ? style("--edge") : colours[group % colours.length];
  pen.fill();
  stamps.set(key, canvas);
  return canvas;
}

function picture(pen, i, x, y, width, height) {
  const left = i % data.columns * data.width, top = Math.floor(i / data.columns) * data.height;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(sheet, left, top, data.width, data.height, x, y, width, height);
}

function point(pen, i, r) {
  const [x, y] = place(i), group = colouring().of(i);
  if (!view.pictures) {
    const mark = stamp(group, r), w = mark.width / devicePixelRatio;
    return pen.drawImage(mark, whole(x - w / 2), whole(y - w / 2), w, w);
  }
  const side = 5 * r, tall = side * data.height / data.width;
  pen.fillStyle = group < 0 ? style("--edge") : colours[group % colours.length];
  pen.fillRect(x - side / 2 - 1.5, y - tall / 2 - 1.5, side + 3, tall + 3);
  picture(pen, i, x - side / 2, y - tall / 2, side, tall);
}

function framed(pen, i, r, width) {  // a point, larger, with a ring around it
  const [x, y] = place(i), half = [2.5 * r + 2.5, 2.5 * r * data.height / data.width + 2.5];
  point(pen, i, r);
  pen.beginPath();
  if (view.pictures) pen.rect(x - half[0], y - half[1], 2 * half[0], 2 * half[1]);
  else pen.arc(x, y, 1.5 * r, 0, 7);
  pen.lineWidth = width;
  pen.strokeStyle = style("--ink");
  pen.stroke();
}

function fresh(id) {  // an empty canvas and its pen
  const canvas = $(id), pen = canvas.getContext("2d");
  canvas.width = view.width * devicePixelRatio, canvas.height = view.height * devicePixelRatio;
  pen.scale(devicePixelRatio, devicePixelRatio);
  return pen;
}

function draw() {  // all points
  measure();
  stale = false;
  const pen = fresh("points"), usual = state.pinned < 0 ? .92 : .35;
  for (const i of all) { pen.globalAlpha = dim(i) ? .12 : usual; point(pen, i, view.radius); }
  mark();
}

function mark() {  // what lies above them: the pinned image with its neighbours, and the one that is pointed at
  const pen = fresh("marks"), r = view.radius, kept = state.pinned < 0 ? [] : near(state.pinned);
  for (const i of kept) line(pen, state.pinned, i);
  for (const i of kept) framed(pen, i, 1.4 * r, 1);
  for (const i of [state.pinned, state.current]) if (i >= 0) framed(pen, i, 1.8 * r, 2.5);
}

function line(pen, i, j) {  // dashed to an image of another class
  pen.beginPath();
  pen.setLineDash(alike(i, j) ? [] : [5, 4]);
  pen.moveTo(...place(i));
  pen.lineTo(...place(j));
  pen.lineWidth = 1.5;
  pen.strokeStyle = style("--ink");
  pen.stroke();
  pen.setLineDash([]);
}

function soon(everything = true) {  // draw before the next frame
  stale ||= everything;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => stale ? draw() : mark());
}

function move() {  // the points, to where the encoder and the map want them
  const from = at, to = encoder().maps[state.map], begin = performance.now();
  const step = now => {
    const share = calm.matches || !from.length ? 1 : Math.min(1, Math.max(0, now - begin) / 700), eased = share * share * (3 - 2 * share);
    at = to.map((x, i) => share === 1 ? x : from[i] + (x - from[i]) * eased);
    draw();
    if (share < 1) moving = requestAnimationFrame(step);
  };
  cancelAnimationFrame(moving);
  step(begin);
}

// Beside it

const make = (tag, text = "", properties = {}) => Object.assign(document.createElement(tag), {textContent: text}, properties);

function thumbnail(canvas, i) {
  canvas.width = data.width, canvas.height = data.height;
  if (i >= 0) picture(canvas.getContext("2d"), i, 0, 0, data.width, data.height);
}

function show(i) {  // the image that is pointed at, else the pinned one
  state.current = i;
  const seen = i < 0 ? state.pinned : i, guess = encoder().predicted?.[seen];
  $("now").dataset.image = seen;
  $("now").hidden = seen < 0;
  $("plot").classList.toggle("near", i >= 0);
  thumbnail($("big"), seen);
  $("said").replaceChildren(...seen < 0 ? [] : [make("b", named(data.label[seen])),
    ...guess === undefined ? [] : [make("span", `predicted: ${named(guess)}${data.label[seen] < 0 ? "" : right(seen) ? " (right)" : " (wrong)"}`,
                                        {className: right(seen) ? "" : "wrong"})],
    make("span", `cluster ${encoder().cluster[seen] + 1}`), make("span", `image ${seen}`)]);
  for (const b of $("near").querySelectorAll("button")) b.classList.toggle("now", +b.dataset.image === seen);
  soon(false);
}

function pin(i) {
  state.pinned = i;
  $("pin").dataset.image = i;
  $("pin").hidden = i < 0;
  $("panel").classList.toggle("pinned", i >= 0);
  if (i >= 0) {
    const same = near(i).filter(j => alike(i, j)).length, whose = `Pinned: image ${i}`;
    $("count").textContent = data.label[i] < 0 ? `${whose}. Its nearest neighbours:` : `${whose}, ${named(data.label[i])}. Of the same class: ${same} of its ${data.k} nearest neighbours`;
    $("near").replaceChildren(...near(i).map(j => neighbour(i, j)));
  }
  show(-1);
  soon();
}

function neighbour(i, j) {
  const item = make("li"), button = make("button", "", {type: "button", className: alike(i, j) ? "same" : "other"}), canvas = make("canvas");
  button.dataset.image = j;
  button.title = `${named(data.label[j])}, image ${j}`;
  thumbnail(canvas, j);
  button.append(canvas, make("span", data.classes.length ? named(data.label[j]) : `image ${j}`));
  button.onmouseenter = button.onfocus = () => show(j);
  button.onmouseleave = button.onblur = () => show(-1);
  button.onclick = () => { pin(j); $("plot").focus({preventScroll: true}); };
  item.append(button);
  return item;
}

function legend() {
  const c = colouring(), names = [...c.names(), "no label"], groups = names.map((_, g) => g === names.length - 1 ? -1 : g);
  $("legend").replaceChildren(...groups.flatMap((group, g) => {
    const some = all.filter(i => c.of(i) === group), item = make("li"), button = make("button", "", {type: "button"});
    if (!some.length) return [];
    const swatch = make("canvas"), mark = stamp(group, 5);
    swatch.width = mark.width, swatch.height = mark.height;
    swatch.getContext("2d").drawImage(mark, 0, 0);
    button.dataset.group = group;
    button.append(swatch, make("span", names[g]), make("small", c.note(some)));
    button.onclick = () => press(state.alone === group ? null : group);
    item.append(button);
    return [item];
  }));
  press(state.alone);
}

function press(group) {  // show it alone; null: all
  state.alone = group;
  for (const b of $("legend").querySelectorAll("button")) b.setAttribute("aria-pressed", +b.dataset.group === group);
  soon();
}

function changed() {  // the encoder, or what colours mean
  $("summary").textContent = summary();
  legend();
  pin(state.pinned);
}

function theme() {  // JupyterLab's, where this is shown in it; else the system's
  let light = !night.matches;
  try { if (parent !== window) light = (parent.document.body.dataset.jpThemeLight ?? String(light)) === "true"; } catch { /* another origin */ }
  document.documentElement.dataset.theme = light ? "light" : "dark";
  colours = PALETTE[document.documentElement.dataset.theme];
  stamps = new Map();
  if (at.length) { legend(); draw(); }
}

// What a reader does

function nearest(event) {
  const box = $("plot").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = event.pointerType === "touch" ? 24 : 14;
  for (const i of all) {
    if (dim(i)) continue;
    const [a, b] = place(i), distance = Math.hypot(a - x, b - y);
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

function zoom(factor) {
  view.scale = Math.min(24, Math.max(1, view.scale * factor));
  if (view.scale === 1) view.x = view.y = 500;
  else if (state.pinned >= 0) [view.x, view.y] = at.slice(2 * state.pinned);
  $("plot").style.touchAction = view.scale > 1 ? "none" : "pan-y";
  soon();
}

function pan(event) {
  view.x = drag.left - (event.clientX - drag.x) / view.unit, view.y = drag.top - (event.clientY - drag.y) / view.unit;
  soon();
}

$("plot").onpointerdown = event => { drag = {x: event.clientX, y: event.clientY, left: view.x, top: view.y, moved: false}; };
$("plot").onpointermove = event => {
  if (drag && event.buttons && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 5) drag.moved = true;
  if (drag?.moved && event.buttons && view.scale > 1) pan(event);
  else show(nearest(event));
};
$("plot").onpointerup = event => { if (drag && !drag.moved) pin(nearest(event)); drag = null; };
$("plot").onpointerleave = () => { drag = null; show(-1); };
$("plot").onwheel = event => { if (event.ctrlKey) { event.preventDefault(); zoom(Math.exp(-event.deltaY / 200)); } };
$("plot").onkeydown = event => {
  const way = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key], circle = state.pinned < 0 ? [] : [state.pinned, ...near(state.pinned)];
  if (way && !circle.length) pin(0);
  else if (way) show(circle[(Math.max(0, circle.indexOf(state.current)) + way + circle.length) % circle.length]);
  else if (event.key === "Enter" || event.key === " ") pin(Math.max(0, state.current < 0 ? state.pinned : state.current));
  else if (event.key === "Escape") pin(-1);
  else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.5 : 1 / 1.5);
  else return;
  event.preventDefault();
};
$("larger").onclick = () => zoom(1.5);
$("smaller").onclick = () => zoom(1 / 1.5);
$("pictures").onchange = () => soon();

function options(id, names, values) {
  $(id).replaceChildren(...names.map((name, i) => new Option(name, values[i])));
  $(id).parentElement.hidden = names.length < 2 && id === "map";
}

options("encoder", data.encoders.map(e => e.name), data.encoders.map((_, i) => i));
options("map", data.maps.map(m => m[1]), data.maps.map(m => m[0]));
const ways = Object.keys(COLOURINGS).filter(name => COLOURINGS[name].there);
options("colouring", ways, ways);
state.colouring = ways[0];
$("encoder").onchange = () => { state.encoder = +$("encoder").value; changed(); move(); };
$("map").onchange = () => { state.map = $("map").value; move(); };
$("colouring").onchange = () => { Object.assign(state, {colouring: $("colouring").value, alone: null}); changed(); };

night.onchange = theme;
try { if (parent !== window) new MutationObserver(theme).observe(parent.document.body, {attributes: true}); } catch { /* another origin */ }
sheet.src = data.sheet;
sheet.decode().then(() => {
  theme();
  changed();
  move();
  new ResizeObserver(() => soon()).observe($("plot"));
  document.documentElement.dataset.ready = "";
});
