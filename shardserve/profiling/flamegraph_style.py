"""The looks and the behaviour of a flame graph, as its SVG carries them.

Rules of this file: two texts, put into the document as they are; neither holds ``]]>``, ``<`` or
``&``, so that they need no escaping in XML. The script takes everything from the elements that are
there, builds text with ``textContent`` only, and asks nothing of any network.
"""

from __future__ import annotations

STYLE = """
svg { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.paper { fill: #fff; }
text { fill: #1b1e23; }
.title { font: 600 18px system-ui, "DejaVu Sans", sans-serif; }
.subtitle { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #5a6270; }
.details { fill: #30363d; }
.frame { cursor: pointer; }
.frame text, .key text { pointer-events: none; }
.frame rect { stroke: #fff; stroke-width: 0.5; }
.frame:hover rect, .frame.at rect { stroke: #000; stroke-width: 1.5; }
.key { cursor: pointer; }
.root rect { fill: #d9dde3; }
.kernel rect { fill: #ef8a76; } .loop rect { fill: #7db3e8; } .parser rect { fill: #b79be0; }
.shardserve rect { fill: #6cc5a1; } .app rect { fill: #f5c04e; } .interpreter rect { fill: #b9c2cf; }
.unknown rect { fill: #e4e6ea; }
.frame.tint1 rect { fill-opacity: 0.88; } .frame.tint2 rect { fill-opacity: 0.76; }
.frame.tint3 rect { fill-opacity: 0.94; }
.passed { opacity: 0.45; }
.searching .frame:not(.found) { opacity: 0.28; }
.found rect { stroke: #7a0c5e; stroke-width: 1.5; }
form { margin: 0; display: flex; gap: 6px; justify-content: flex-end; }
input, button { font: 12px system-ui, "DejaVu Sans", sans-serif; padding: 3px 7px; border-radius: 5px;
  border: 1px solid #aab2bd; background: #fff; color: #1b1e23; }
input:focus-visible, button:focus-visible { outline: 2px solid #2563c9; }
svg:focus-visible { outline: none; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #14171c; } .title, .key text { fill: #e8ebef; } .subtitle { fill: #9aa4b1; }
  .details { fill: #d5dae1; } .frame rect { stroke: #14171c; }
  .frame:hover rect, .frame.at rect { stroke: #fff; } .found rect { stroke: #ff7ad9; }
  .frame text { fill: #101317; }
  input, button { background: #20252c; color: #e8ebef; border-color: #4a535f; }
}
"""

SCRIPT = """
"use strict";
const svg = document.documentElement, area = svg.querySelector("#frames");
const details = svg.querySelector("#details"), SIDE = Number(area.getAttribute("x"));
const HTML = "http://www.w3.org/1999/xhtml", SVG = "http://www.w3.org/2000/svg";
const rest = details.textContent, root = svg.querySelector(".frame");
let letter = 7.3, zoomed = root, at = null;
const frames = [...svg.querySelectorAll(".frame")];
const info = new Map(frames.map(g => {
  const [start, samples, depth] = g.dataset.at.split(" ").map(Number);
  const [says, rect, label] = g.children;
  return [g, {start, samples, depth, name: g.dataset.name, rect, label, says: says.textContent}];
}));
function isInside(inner, outer) {
  const a = info.get(inner), b = info.get(outer);
  return a.start >= b.start ? b.start + b.samples >= a.start + a.samples : false;
}
function fitted(text, room) {
  return room >= text.length ? text : room >= 3 ? text.slice(0, room - 1) + "…" : "";
}
function draw() {
  const width = area.width.baseVal.value, focus = info.get(zoomed), scale = 100 / focus.samples;
  for (const [g, one] of info) {
    const above = focus.depth > one.depth;
    const shown = above ? isInside(zoomed, g) : isInside(g, zoomed);
    g.style.display = shown ? "" : "none";
    g.classList.toggle("passed", above);
    if (!shown) continue;
    const left = above ? 0 : (one.start - focus.start) * scale, share = above ? 100 : one.samples * scale;
    one.rect.setAttribute("x", left + "%");
    one.rect.setAttribute("width", share + "%");
    one.label.setAttribute("x", left + "%");
    one.label.textContent = fitted(one.name, Math.floor((share / 100 * width - 6) / letter));
  }
}
function say(g) {
  details.textContent = fitted(g ? info.get(g).says : rest, Math.floor(area.width.baseVal.value / letter));
}
function go(g) {
  if (at) at.classList.remove("at");
  at = g;
  if (g) {
    g.classList.add("at");
    const box = g.getBoundingClientRect();
    if (0 > box.top || box.bottom > innerHeight) g.scrollIntoView({block: "center"});
  }
  say(g);
}
function zoom(g) { zoomed = g; draw(); }
// Of the frames that are shown: the nearest one in a direction.
function shown() { return frames.filter(g => g.style.display !== "none"); }
function parent(g) {
  const depth = info.get(g).depth - 1;
  return frames.find(one => info.get(one).depth === depth ? isInside(g, one) : false) ?? g;
}
function child(g) {
  const depth = info.get(g).depth + 1;
  const below = shown().filter(one => info.get(one).depth === depth ? isInside(one, g) : false);
  const larger = (best, one) => info.get(one).samples > info.get(best).samples ? one : best;
  return below.reduce(larger, below[0] ?? g);
}
function beside(g, step) {
  const row = shown().filter(one => info.get(one).depth === info.get(g).depth);
  return row[row.indexOf(g) + step] ?? g;
}
const KEYS = {
  ArrowDown: g => go(child(g)), ArrowUp: g => go(parent(g)),
  ArrowLeft: g => go(beside(g, -1)), ArrowRight: g => go(beside(g, 1)),
  Enter: g => zoom(g), " ": g => zoom(g), Home: () => go(root),
};
addEventListener("keydown", event => {
  if (event.target.localName === "input" || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape") { reset(); event.target.blur(); }
    return;
  }
  if (event.key === "Escape") reset();
  else if (event.key === "/") input.focus();
  else if (event.target.localName === "button") return;
  else if (KEYS[event.key]) { const from = at ?? zoomed; at ? KEYS[event.key](from) : go(from); }
  else return;
  event.preventDefault();
});
area.addEventListener("click", event => {
  const g = event.target.closest(".frame");
  if (g) { go(g); zoom(g); }
});
area.addEventListener("mouseover", event => say(event.target.closest(".frame")));
area.addEventListener("mouseleave", () => say(at));
// Search: samples in which some frame matches, each counted once.
function search(match) {
  svg.classList.toggle("searching", match !== null);
  let covered = 0, end = 0, hits = 0;
  for (const [g, one] of info) {
    const found = match !== null ? match(g, one) : false;
    g.classList.toggle("found", found);
    if (!found) continue;
    hits += 1;
    if (one.start >= end) { covered += one.samples; end = one.start + one.samples; }
  }
  const share = (100 * covered / Number(svg.dataset.total)).toFixed(1);
  const found = hits + (hits === 1 ? " frame" : " frames") + " found, in " + share + " % of the samples";
  details.textContent = match === null ? rest : found;
}
function find() {
  const words = input.value.trim();
  if (!words) return search(null);
  let test;
  try { const pattern = new RegExp(words, "i"); test = says => pattern.test(says); }
  catch { test = says => says.toLowerCase().includes(words.toLowerCase()); }
  search((g, one) => g !== root ? test(one.says.split(" · ").slice(0, -1).join(" · ")) : false);
}
function reset() { input.value = ""; search(null); go(null); zoom(root); }
for (const key of svg.querySelectorAll(".key")) {
  key.addEventListener("click", () => {
    input.value = "";
    search(g => g.classList.contains(key.dataset.layer));
  });
}
// The controls are HTML, so that they are a browser's own.
const box = document.createElementNS(SVG, "foreignObject");
const form = document.createElementNS(HTML, "form"), input = document.createElementNS(HTML, "input");
const button = document.createElementNS(HTML, "button");
for (const [name, value] of [["height", 34], ["y", 10]]) box.setAttribute(name, value);
input.type = "search"; input.placeholder = "Search ( / )";
input.setAttribute("aria-label", "Search functions");
button.type = "button"; button.textContent = "Reset"; button.title = "Esc; arrows move, Enter zooms";
input.addEventListener("input", find);
button.addEventListener("click", reset);
form.addEventListener("submit", event => event.preventDefault());
form.append(input, button); box.append(form); svg.append(box);
// From here on it fills its window.
const keys = [...svg.querySelectorAll(".key")].map(key => [key, key.getBBox()]);
function fill() {
  const width = Math.max(svg.clientWidth, 320), controls = width > 760 ? 310 : 200;
  area.setAttribute("width", width - 2 * SIDE);
  box.setAttribute("width", controls);
  box.setAttribute("x", width - controls - SIDE);
  input.style.width = controls - 120 + "px";
  let x = SIDE, y = 0;
  for (const [key, at] of keys) {
    if (x + at.width > width - SIDE) { x = SIDE; y += 17; }
    key.setAttribute("transform", "translate(" + (x - at.x) + " " + y + ")");
    x += at.width + 20;
  }
  draw(); say(at);
}
svg.removeAttribute("viewBox");
svg.setAttribute("width", "100%");
try { letter = root.querySelector("text").getSubStringLength(0, 3) / 3 || letter; } catch { /* no text */ }
svg.setAttribute("tabindex", "-1");
addEventListener("resize", fill);
fill();
"""
