"""The page that `report.write_html` fills: own SVG and script, no network."""

TEMPLATE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>@TITLE@</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; color: #222; padding: 0 1rem; }
  h1 { font-size: 1.2rem; }
  pre { overflow-x: auto; font-size: 12px; background: #f7f7f7; padding: 1rem; }
  svg { width: 100%; height: auto; }
  svg text { font: 12px system-ui, sans-serif; fill: #444; }
  .grid { stroke: #e5e5e5; }
  #tip { position: fixed; display: none; background: #fff; border: 1px solid #999; border-radius: 4px;
         padding: .4rem .6rem; font-size: 13px; pointer-events: none; box-shadow: 0 2px 8px #0002; max-width: 28rem; }
  .dot:hover { stroke: #000; stroke-width: 2; }
</style>
<h1>@TITLE@</h1>
<div id="chart"></div>
<div id="tip" role="tooltip"></div>
<pre>@TABLE@</pre>
<script>
"use strict";
const data = @DATA@;
// Names stand to the right of their curves: as much room as the longest needs.
const names = data.series.filter(s => s.kind !== "other" && s.points.length).map(s => s.name.length);
const W = 960, H = 540, L = 64, R = Math.min(320, Math.max(110, 20 + 8 * Math.max(...names))), T = 16, B = 52;
const all = data.series.flatMap(s => s.points);
const xs = all.map(p => p.x), ys = all.flatMap(p => p.ci ? [p.y, ...p.ci] : [p.y]);
const f = data.log ? Math.log10 : (v => v);
const x0 = data.log ? f(Math.min(...xs) / 1.15) : 0, x1 = f(Math.max(...xs) * 1.05);
const pad = Math.max(1, (Math.max(...ys) - Math.min(...ys)) * 0.05);
const y0 = Math.max(0, Math.min(...ys) - pad), y1 = Math.min(100, Math.max(...ys) + pad);
const X = v => L + (f(v) - x0) / (x1 - x0) * (W - L - R), Y = v => H - B - (v - y0) / (y1 - y0) * (H - T - B);
const NS = "http://www.w3.org/2000/svg";
function make(parent, tag, attributes, text) {
  const e = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  parent.append(e);
  return e;
}
function steps(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw), ticks = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) ticks.push(+v.toPrecision(10));
  return ticks;
}
const svg = make(document.getElementById("chart"), "svg", { viewBox: `0 0 ${W} ${H}` });
for (const v of data.ticks || steps(x0, x1, 8)) {
  if (X(v) < L - 1 || X(v) > W - R + 1) continue;
  make(svg, "line", { class: "grid", x1: X(v), x2: X(v), y1: T, y2: H - B });
  make(svg, "text", { x: X(v), y: H - B + 18, "text-anchor": "middle" }, String(v));
}
for (const v of steps(y0, y1, 7)) {
  make(svg, "line", { class: "grid", x1: L, x2: W - R, y1: Y(v), y2: Y(v) });
  make(svg, "text", { x: L - 8, y: Y(v) + 4, "text-anchor": "end" }, String(v));
}
make(svg, "text", { x: (L + W - R) / 2, y: H - 10, "text-anchor": "middle" }, data.x);
make(svg, "text", { transform: `translate(16 ${(H - B + T) / 2}) rotate(-90)`, "text-anchor": "middle" }, data.y);
const tip = document.getElementById("tip");
function show(event, point) {
  tip.replaceChildren(...point.lines.filter(Boolean).map(line => {
    const e = document.createElement("div");
    e.textContent = line;
    return e;
  }));
  tip.style.display = "block";
  tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = event.clientY + 14 + "px";
}
const labels = [];
for (const s of data.series) {
  const colour = s.colour || "#9ab4d1", points = s.points;
  if (!points.length) continue;
  if (s.kind !== "other") {
    make(svg, "polyline", { points: points.map(p => `${X(p.x)},${Y(p.y)}`).join(" "), fill: "none", stroke: colour,
      "stroke-width": s.kind === "front" ? 2.5 : 1.2 });
    labels.push({ y: Y(points.at(-1).y) + 4, name: s.name, colour });
  }
  for (const p of points) {
    if (s.kind === "front" && p.ci)
      make(svg, "line", { x1: X(p.x), x2: X(p.x), y1: Y(p.ci[0]), y2: Y(p.ci[1]), stroke: colour, opacity: .35 });
    if (p.knee) {
      make(svg, "circle", { cx: X(p.x), cy: Y(p.y), r: 10, fill: "none", stroke: colour, "stroke-width": 1.5 });
      make(svg, "text", { x: X(p.x) - 14, y: Y(p.y) - 8, "text-anchor": "end", style: `fill:${colour}` }, "knee");
    }
    const dot = make(svg, "circle", { class: "dot", cx: X(p.x), cy: Y(p.y), fill: colour,
      r: { front: 5, baseline: 3.5, other: 3 }[s.kind], opacity: s.kind === "other" ? .45 : 1 });
    dot.addEventListener("mousemove", event => show(event, p));
    dot.addEventListener("mouseleave", () => { tip.style.display = "none"; });
  }
}
labels.sort((a, b) => a.y - b.y);
labels.forEach((label, i) => {
  if (i) label.y = Math.max(label.y, labels[i - 1].y + 14);
  make(svg, "text", { x: W - R + 10, y: label.y, style: `fill:${label.colour};font-weight:600` }, label.name);
});
</script>
</html>
"""
