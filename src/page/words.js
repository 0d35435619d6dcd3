// Numbers and places in words, on axes and below charts.

const keys = () => state.drawn.flatMap((key, slot) => (key === null ? [] : [{ key, colour: COLOURS[slot] }]));
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The names of a key that are not the same in all of them.
const differ = [0, 1, 2, 3].filter((i) => new Set(header.keys.map((k) => k[i])).size > 1);
const nameOf = (key) => (differ.length ? differ : [3]).map((i) => header.keys[key][i]).join(", ");

// The steps from the first to the last point.
function whole() {
  const ends = base.filter((b) => b.n > 0);
  const [lo, hi] = [Math.min(...ends.map((b) => b.x[0])), Math.max(...ends.map((b) => b.x[b.n - 1]))];
  // A logarithmic axis has no 0.
  const least = state.logSteps ? Math.max(lo, Math.min(1, hi / 10)) : lo;
  return least < hi ? [least, hi] : [lo - 1, lo + 1];
}

// Numbers at eleven places from end to end, for those who do not see a chart.
function tenths(chart) {
  const [lo, hi] = state.view ?? whole();
  const rows = Array.from({ length: 11 }, (_, i) => lo + (hi - lo) * i / 10).map((at) => chart.curves.map((c) => {
    const i = nearest(base[c.key].x, at);
    return i === null ? ["–", "–"] : [where(c.key, i), whether(c.mean[i])];
  }));
  const line = (tag, texts) => {
    const row = document.createElement("tr");
    row.append(...texts.map((text) => Object.assign(document.createElement(tag), { textContent: text })));
    return row;
  };
  const names = chart.curves.flatMap((c) => ["point", nameOf(c.key)]);
  return [line("th", names), ...rows.map((cells) => line("td", cells.flat()))];
}

const whether = (v) => (Number.isNaN(v) ? "null" : String(Number(v.toPrecision(5))));

function cells(c, i) {
  if (!c.lo || Number.isNaN(c.mean[i])) return [whether(c.mean[i]), "–", "–"];
  const first = base[c.key].first[i];
  return [whether(c.mean[i]), [whether(c.lo[i]), thousands(first + c.least[i])],
    [whether(c.hi[i]), thousands(first + c.most[i])]];
}

// Which steps a point stands for, in words.
function where(key, i) {
  const { first, last, rows, epoch } = base[key];
  const steps = first[i] === last[i] ? `step ${thousands(first[i])}`
    : `steps ${thousands(first[i])} to ${thousands(last[i])} (${thousands(rows[i])})`;
  return Number.isNaN(epoch[i]) ? steps : `${steps}, epoch ${whether(epoch[i])}`;
}

function nearest(x, at) {
  if (x.length === 0) return null;
  let [lo, hi] = [0, x.length - 1];
  while (lo < hi) {
    const middle = (lo + hi) >> 1;
    if (x[middle] < at) lo = middle + 1;
    else hi = middle;
  }
  return lo > 0 && at - x[lo - 1] <= x[lo] - at ? lo - 1 : lo;
}

function range(lo, hi) {
  if (lo === null || hi === null) return [0, 1];
  const pad = lo < hi ? 0.05 * (hi - lo) : Math.abs(lo) * 0.05 || 1;
  return [lo - pad, hi + pad];
}

// Numbers on an axis, with as many digits as tell them apart.
function labels(at, step) {
  const largest = Math.max(...at.map((v) => Math.abs(v ?? 0)));
  return at.map((v) => {
    if (v === null) return "";
    if (v === 0) return "0";
    const size = Math.floor(Math.log10(Math.abs(v)) + 1e-9);
    if (step === null) return size >= -3 && size <= 4 ? String(Number(v.toPrecision(3))) : v.toExponential(0);
    const digits = Math.floor(Math.log10(step) + 1e-9);
    if (largest < 1e5 && step >= 1e-4) return v.toFixed(Math.max(-digits + (step / 10 ** digits % 1 > 1e-6 ? 1 : 0), 0));
    return v.toExponential(Math.min(Math.max(size - digits, 0), 6));
  });
}

// The axis of steps, or of epochs, which lie where their first steps do.
function along(chart) {
  const space = chart.plot.clientWidth < 500 ? 70 : 60;
  if (state.logSteps) {
    return { space, values: (u, at) => {
      const decades = Math.log10(u.scales.x.max / u.scales.x.min);
      const labelled = decades > 2 ? [1] : decades > 1 ? [1, 2, 5] : [1, 2, 3, 4, 5, 6, 7, 8, 9];
      return at.map((v) => (labelled.includes(Math.round(v / 10 ** Math.floor(Math.log10(v) + 1e-9))) ? thousands(v) : ""));
    } };
  }
  if (state.along === "step" || chart.curves.length === 0) {
    const short = (v) => (Math.abs(v) >= 1e6 ? `${v / 1e6}M` : Math.abs(v) >= 1e4 ? `${v / 1e3}k` : String(v));
    return { space, incrs: [1, 2, 5].flatMap((m) => Array.from({ length: 16 }, (_, e) => m * 10 ** e)).sort((a, b) => a - b),
      values: (u, at) => at.map((v) => (Number.isInteger(v) ? short(v) : "")) };
  }
  const { n, x, epoch } = base[chart.curves[0].key];
  return { space,
    splits: (u, axis, lo, hi) => {
      const begins = [];
      for (let i = 0; i < n; i++) {
        if (x[i] >= lo && x[i] <= hi && (i === 0 || Math.floor(epoch[i]) > Math.floor(epoch[i - 1]))) begins.push(i);
      }
      const span = begins.length ? Math.floor(epoch[begins.at(-1)]) - Math.floor(epoch[begins[0]]) : 0;
      const room = Math.max(u.width / space, 1);
      const every = [1, 2, 5].flatMap((m) => [m, 10 * m, 100 * m, 1e3 * m, 1e4 * m, 1e5 * m]).sort((a, b) => a - b)
        .find((e) => span / e <= room) ?? 1e6;
      const labelled = begins.filter((i) => Math.floor(epoch[i]) % every === 0).map((i) => x[i]);
      // Within an epoch there is no place where one begins.
      return labelled.length ? labelled : [(lo + hi) / 2];
    },
    values: (u, at) => at.map((v) => {
      const i = nearest(x, v);
      return `${x[i] === v ? "" : "in "}${Math.floor(epoch[i])}`;
    }) };
}

function swatch(colour) {
  const mark = document.createElement("span");
  mark.className = "swatch";
  mark.style.background = colour;
  return mark;
}
