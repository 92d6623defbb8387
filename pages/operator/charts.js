// Small charts as SVG: lines over the last minutes. All nodes are created by DOM calls; none is parsed from text.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const BOTTOM = 20;
const TOP = 8;
const LEFT = 44;

/** An element with attributes and children. */
export function node(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A round number at or above `value` whose half is a round number, too. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 10].find((step) => step * power >= value * 0.999) * power;
}

/** A number short enough for an axis. */
export function short(value) {
  if (value === null) return "–";
  if (Math.abs(value) >= 10_000) return `${Number((value / 1000).toPrecision(3))}k`;
  if (Number.isInteger(value) || Math.abs(value) >= 100) return new Intl.NumberFormat().format(Math.round(value));
  return String(Number(value.toPrecision(2)));
}

/** The path of a line, with gaps for missing values. */
function path(values, x, y) {
  let drawn = "";
  let isDown = false;
  values.forEach((value, step) => {
    if (value === null) isDown = false;
    else {
      drawn += `${isDown ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      isDown = true;
    }
  });
  return drawn;
}

/**
 * Draws `chart` into `figure`: `title`, `unit`, `steps` of `stepSeconds` each, and `lines` of `name`, `values`, `series` (the number
 * of its colour), `isDashed`, `isFilled`, `now` (the text next to its name).
 */
export function draw(figure, { title, unit, steps, stepSeconds, lines }) {
  const width = Math.max(220, figure.clientWidth || 320);
  const known = lines.flatMap(({ values }) => values).filter((value) => value !== null);
  const end = roundUp(Math.max(0, ...known));
  const x = (step) => LEFT + ((width - LEFT - 4) * step) / Math.max(1, steps - 1);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.max(0, value) / end);
  const summary = lines.map(({ name, now }) => `${name} ${now}`).join(", ");
  const svg = node("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": `${title}, now: ${summary || "no data yet"}. The highest in three minutes: ${short(Math.max(0, ...known))} ${unit}.` });
  for (const mark of [0, end / 2, end]) {
    svg.append(node("line", { class: "grid", x1: LEFT, x2: width - 4, y1: y(mark), y2: y(mark) }));
    svg.append(node("text", { x: LEFT - 7, y: y(mark) + 4, "text-anchor": "end" }, short(mark)));
  }
  const minutes = (steps * stepSeconds) / 60;
  for (let minute = 0; minute <= minutes; minute += 1) {
    const at = x((steps - 1) * (1 - minute / minutes));
    const anchor = minute === 0 ? "end" : minute >= minutes ? "start" : "middle";
    svg.append(node("text", { x: at, y: HEIGHT - 4, "text-anchor": anchor }, minute === 0 ? "now" : `−${minute} min`));
  }
  if (known.length === 0) svg.append(node("text", { class: "none", x: (LEFT + width) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no data yet"));
  for (const { values, series, isDashed, isFilled } of lines) {
    const drawn = path(values, x, y);
    if (!drawn) continue;
    if (isFilled && values.every((value) => value !== null)) {
      svg.append(node("path", { class: `area s${series}`, d: `${drawn}L${x(steps - 1)} ${y(0)}L${x(0)} ${y(0)}Z` }));
    }
    svg.append(node("path", { class: `line s${series}${isDashed ? " dash" : ""}`, d: drawn, fill: "none" }));
  }
  const heading = document.createElement("h2");
  heading.textContent = unit ? `${title}, ${unit}` : title;
  figure.replaceChildren(heading, key(lines), svg);
}

function key(lines) {
  const list = document.createElement("ul");
  list.className = "key";
  for (const { name, now, series, isDashed } of lines) {
    const entry = document.createElement("li");
    const swatch = node("svg", { viewBox: "0 0 14 8", "aria-hidden": "true" }, node("path", { class: `line s${series}${isDashed ? " dash" : ""}`, d: "M0 4H14" }));
    const figure = document.createElement("b");
    figure.textContent = now;
    entry.append(swatch, `${name} `, figure);
    list.append(entry);
  }
  return list;
}

/** A line without axes, for a table; `label` describes it in words. */
export function spark(values, label) {
  const known = values.filter((value) => value !== null);
  const end = Math.max(...known, 0) || 1;
  const x = (step) => 1 + (118 * step) / Math.max(1, values.length - 1);
  const y = (value) => 26 - (24 * Math.max(0, value)) / end;
  return node("svg", { viewBox: "0 0 120 28", role: "img", "aria-label": label },
    node("line", { class: "grid", x1: 0, x2: 120, y1: 26.5, y2: 26.5 }),
    node("path", { class: "line s1", d: path(values, x, y) }));
}

/** A bar from `low` to `high` about a line at zero, for a table; `end` is the value at the edge. */
export function range(low, high, end, label) {
  const x = (value) => 60 + (58 * Math.max(-end, Math.min(end, value))) / (end || 1);
  return node("svg", { viewBox: "0 0 120 28", role: "img", "aria-label": label },
    node("line", { class: "grid", x1: 0, x2: 120, y1: 14, y2: 14 }),
    node("line", { class: "line s1 wide", x1: x(low), x2: Math.max(x(high), x(low) + 1), y1: 14, y2: 14 }),
    node("line", { class: "zero", x1: 60, x2: 60, y1: 5, y2: 23 }));
}
