// What the page holds, unpacked: the first of the files that are put together as one script (mod.rs).

// Okabe and Ito's, as in lpa's figures; the walk is black and dashed, white where the page is dark.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const HEIGHT = 220;
// Names of a list that are shown at a time.
const SHOWN = 200;
// No logarithmic axis has more decades.
const DECADES = 250;

const $ = (id) => document.getElementById(id);
const header = JSON.parse($("header").textContent);
const metrics = new Map(header.metrics.map((m) => [m.name, m]));
const dark = matchMedia("(prefers-color-scheme: dark)");
const thousands = (n) => Math.round(n).toLocaleString("en-US");

const state = {
  // By place of colours, the place of a key; null where a colour is free.
  drawn: COLOURS.map((_, i) => header.first[i] ?? null),
  metrics: new Set(),
  log: new Set(),
  // Metrics of which the outermost points are cut off.
  cut: new Set(),
  along: "step",
  // Steps lie along a logarithmic axis.
  logSteps: false,
  view: null,
};

// Takes arrays out of a block: bytes of equal significance lie side by side.
class Cursor {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  take(count, wide) {
    const size = wide ? 8 : 4;
    const out = new Uint8Array(count * size);
    for (let b = 0; b < size; b++) {
      for (let i = 0; i < count; i++) out[i * size + b] = this.bytes[this.at++];
    }
    return wide ? new Float64Array(out.buffer) : new Float32Array(out.buffer);
  }
}

async function unpack(id) {
  const packed = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const bytes = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Cursor(new Uint8Array(await new Response(bytes).arrayBuffer()));
}

// Which steps the points of each key stand for.
let base = [];

async function unpackSteps() {
  const block = await unpack("numbers-of-steps");
  base = header.points.map((n) => {
    const x = block.take(n, true);
    const single = header.stepsAPoint === 1;
    const [first, last] = single ? [x, x] : [block.take(n, true), block.take(n, true)];
    const rows = single ? new Float64Array(n).fill(1) : block.take(n, true);
    const [rounding, infinite] = [block.take(n, true), block.take(n, true)];
    return { n, x, first, last, rows, rounding, infinite, epoch: block.take(n, true), apart: block.take(n, true) };
  });
}

const unpacked = new Map();

// The numbers of a metric by key: mean, and lo, hi, least, most, count where there are such.
function numbers(name) {
  if (!unpacked.has(name)) {
    unpacked.set(name, unpack(`numbers-of-${name}`).then((block) => metrics.get(name).curves.map((told, k) => {
      if (told === null) return null;
      const [wide, band, counts, nulls, notPositive] = told;
      const take = (wide) => block.take(base[k].n, wide);
      const curve = { nulls, notPositive, mean: take(wide) };
      if (band) {
        [curve.lo, curve.hi] = [take(wide), take(wide)];
        [curve.least, curve.most] = [take(true), take(true)];
      }
      if (counts) curve.count = take(true);
      return curve;
    })));
  }
  return unpacked.get(name);
}

// A curve as uPlot has it: x, then numbers by x. What is not there is null: a NaN would draw a line across. `shown`
// says what of a number an axis can show.
function table(key, arrays, shown) {
  const { n, x, apart } = base[key];
  const out = [[], ...arrays.map(() => [])];
  for (let i = 0; i < n; i++) {
    if (state.logSteps && x[i] <= 0) continue;
    if (apart[i] && i > 0) {
      out[0].push((x[i - 1] + x[i]) / 2);
      arrays.forEach((_, a) => out[a + 1].push(null));
    }
    out[0].push(x[i]);
    arrays.forEach((array, a) => out[a + 1].push(Number.isNaN(array[i]) ? null : shown(array[i], a)));
  }
  return out;
}

const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);

// Tables side by side; where their steps differ uPlot joins them.
function join(tables) {
  const [first] = tables;
  if (tables.every((t) => same(t[0], first[0]))) return [first[0], ...tables.flatMap((t) => t.slice(1))];
  return uPlot.join(tables);
}

// The numbers between which 98 of 100 means of some curves lie.
function middle(curves) {
  const all = Float64Array.from(curves.flatMap((c) => Array.from(c.mean).filter((v) => !Number.isNaN(v)))).sort();
  const at = (part) => all[Math.round(part * (all.length - 1))];
  return all.length ? [at(0.01), at(0.99)] : null;
}

// The least number above 0 that a logarithmic axis shows of some curves.
function floorOf(curves) {
  let [least, most] = [Infinity, 0];
  for (const curve of curves) {
    for (const array of [curve.mean, curve.lo, curve.hi]) {
      for (const v of array ?? []) {
        if (v > 0) [least, most] = [Math.min(least, v), Math.max(most, v)];
      }
    }
  }
  return most > 0 ? Math.max(least, most / 10 ** DECADES) : null;
}
