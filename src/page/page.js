// Draws the charts of a report. The numbers lie in the page, a block a metric, and are unpacked when first drawn.
"use strict";

(() => {
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
    along: "step",
    view: null,
  };

  /* Unpacking. */

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
        const take = (wide) => block.take(base[k].n, wide);
        const curve = { told, mean: take(told.wide) };
        if (told.band) {
          [curve.lo, curve.hi] = [take(told.wide), take(told.wide)];
          [curve.least, curve.most] = [take(true), take(true)];
        }
        if (told.counts) curve.count = take(true);
        return curve;
      })));
    }
    return unpacked.get(name);
  }

  /* What is drawn. */

  const keys = () => state.drawn.flatMap((key, slot) => (key === null ? [] : [{ key, colour: COLOURS[slot] }]));
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The names of a key that are not the same in all of them.
  const differ = [0, 1, 2].filter((i) => new Set(header.keys.map((k) => k[i])).size > 1);
  const nameOf = (key) => (differ.length ? differ : [2]).map((i) => header.keys[key][i]).join(", ");

  // The steps from the first to the last point.
  function whole() {
    const ends = base.filter((b) => b.n > 0);
    const [lo, hi] = [Math.min(...ends.map((b) => b.x[0])), Math.max(...ends.map((b) => b.x[b.n - 1]))];
    return lo < hi ? [lo, hi] : [lo - 1, lo + 1];
  }

  // A curve as uPlot has it: x, then numbers by x. What is not there is null: a NaN would draw a line across. `shown`
  // says what of a number an axis can show.
  function table(key, arrays, shown) {
    const { n, x, apart } = base[key];
    const out = [[], ...arrays.map(() => [])];
    for (let i = 0; i < n; i++) {
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

  /* Charts. */

  class Chart {
    constructor(metric) {
      this.metric = metric;
      this.box = document.createElement("article");
      this.box.className = "chart";
      this.box.dataset.metric = metric.name;
      this.box.innerHTML = `<header><h3></h3><p></p><button type="button" aria-pressed="false">log</button></header>
        <div class="plot" tabindex="0" role="group"></div><table class="readout"></table><p class="remark"></p>`;
      const [title, about, log] = this.box.querySelector("header").children;
      title.textContent = metric.name;
      about.textContent = metric.about;
      log.setAttribute("aria-label", `logarithmic axis of ${metric.name}`);
      log.onclick = () => {
        const on = !state.log.delete(metric.name);
        if (on) state.log.add(metric.name);
        log.setAttribute("aria-pressed", String(on));
        this.draw();
      };
      this.plot = this.box.querySelector(".plot");
      this.plot.setAttribute("aria-label",
        `Chart of ${metric.name}: arrows move the cursor, plus and minus zoom, 0 shows all steps`);
      this.stale = true;
      this.visible = false;
      listen(this);
    }

    // Draws it anew, if it is in view.
    async draw() {
      this.stale = true;
      if (!this.visible || this.busy) return;
      this.busy = true;
      while (this.stale && this.visible) {
        this.stale = false;
        const all = await numbers(this.metric.name);
        const beside = metrics.has(this.metric.beside) ? await numbers(this.metric.beside) : [];
        this.build(all, beside);
      }
      this.busy = false;
    }

    build(all, beside) {
      this.plotted?.destroy();
      this.plotted = this.box.uplot = null;
      this.plot.replaceChildren();
      this.curves = keys().flatMap(({ key, colour }) => (all[key] ? [{ key, colour, ...all[key] }] : []));
      const log = state.log.has(this.metric.name);
      this.floor = log ? floorOf([...this.curves, ...this.curves.flatMap((c) => beside[c.key] ?? [])]) : null;
      this.remark(log);
      if (this.curves.length === 0 || (log && this.floor === null)) {
        this.say(this.curves.length ? "no value is above 0" : "null at every step of these curves");
        return;
      }
      const { data, series, bands } = this.series(beside, log);
      this.plotted = this.box.uplot = new uPlot(this.options(series, bands, log), data, this.plot);
      this.read(null);
    }

    say(what) {
      const empty = document.createElement("p");
      empty.className = "empty";
      empty.textContent = what;
      this.plot.replaceChildren(empty);
      this.box.querySelector(".readout").replaceChildren();
    }

    series(beside, log) {
      // The lower end of a band goes to the end of the axis.
      const shown = log ? (v, a) => (v >= this.floor ? v : a === 1 ? this.floor : null) : (v) => v;
      const [tables, series, bands] = [[], [{}], []];
      for (const c of this.curves) {
        tables.push(table(c.key, c.lo ? [c.mean, c.lo, c.hi] : [c.mean], shown));
        const at = series.length;
        series.push({ label: nameOf(c.key), stroke: c.colour, width: 1.25, points: { show: base[c.key].n < 60 } });
        if (c.lo) {
          // Its edge shows what is one step wide.
          const edge = { stroke: `${c.colour}80`, width: 0.75, points: { show: false } };
          series.push(edge, edge);
          bands.push({ series: [at + 2, at + 1], fill: `${c.colour}40` });
          if (log) this.hide(tables.at(-1));
        }
      }
      const dashes = this.metric.beside === "cos_walk" ? [8, 5] : [2, 4];
      const known = [];
      for (const c of this.curves.filter((c) => beside[c.key])) {
        const t = table(c.key, [beside[c.key].mean], (v) => (log && v < this.floor ? null : v));
        // What is the same for several is drawn once.
        if (known.some((other) => same(other[1], t[1]) && same(other[0], t[0]))) continue;
        known.push(t);
        series.push({ label: this.metric.beside, stroke: ink("--ink"), width: 1.25, dash: dashes, points: { show: false } });
      }
      return { data: join([...tables, ...known]), series, bands };
    }

    // Where nothing of a point is above 0, there is no band either.
    hide([, , lo, hi]) {
      hi.forEach((v, i) => {
        if (v === null) lo[i] = null;
      });
    }

    options(series, bands, log) {
      const [soft, grid] = [ink("--soft"), ink("--grid")];
      const axis = { stroke: soft, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
      return {
        width: Math.max(this.plot.clientWidth, 50), height: HEIGHT, series, bands,
        legend: { show: false },
        cursor: { y: false, drag: { x: true, y: false, setScale: false }, points: { size: 6 },
          bind: { dblclick: () => () => zoom(null) } },
        scales: { x: { time: false, range: () => state.view ?? whole() },
          y: { distr: log ? 3 : 1, range: (u, lo, hi) => (log ? this.logRange(lo, hi) : range(lo, hi)) } },
        axes: [{ ...axis, ...along(this) }, { ...axis, size: 62, values: (u, at, i, space, step) => labels(at, log ? null : step) }],
        hooks: { setCursor: [(u) => this.read(u.cursor.idx ?? null)], draw: [(u) => this.mark(u)],
          setSelect: [(u) => this.select(u)] },
      };
    }

    logRange(lo, hi) {
      if (!(hi > 0)) return [this.floor, this.floor * 10];
      return lo < hi ? [lo / (hi / lo) ** 0.03, hi * (hi / lo) ** 0.03] : [lo / 2, lo * 2];
    }

    select(u) {
      if (u.select.width > 3) {
        zoom([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
      }
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    }

    // Crosses where sums are infinite or NaN, and a bar below where distances are mostly rounding.
    mark(u) {
      const { ctx, bbox } = u;
      const dots = devicePixelRatio;
      ctx.save();
      this.curves.forEach(({ key, colour }, row) => {
        const { n, x, first, last, rounding, infinite } = base[key];
        for (let i = 0; i < n; i++) {
          if (!infinite[i] && !rounding[i]) continue;
          const place = (v) => Math.min(Math.max(u.valToPos(v, "x", true), bbox.left), bbox.left + bbox.width);
          if (last[i] < u.scales.x.min || first[i] > u.scales.x.max) continue;
          if (rounding[i]) {
            ctx.fillStyle = colour;
            const from = place(first[i]);
            ctx.fillRect(from, bbox.top + bbox.height - (row + 1) * 3 * dots, Math.max(place(last[i]) - from, dots), 2 * dots);
          }
          if (infinite[i]) {
            ctx.strokeStyle = colour;
            ctx.lineWidth = 1.5 * dots;
            const [at, top, half] = [place(x[i]), bbox.top + (6 + 8 * row) * dots, 3 * dots];
            ctx.beginPath();
            ctx.moveTo(at - half, top - half);
            ctx.lineTo(at + half, top + half);
            ctx.moveTo(at - half, top + half);
            ctx.lineTo(at + half, top - half);
            ctx.stroke();
          }
        }
      });
      ctx.restore();
    }

    // What a reader must know of what is not drawn.
    remark(log) {
      const sum = (of) => this.curves.reduce((all, c) => all + of(c), 0);
      const total = sum((c) => c.told.rows);
      const over = (of) => sum((c) => base[c.key][of].reduce((a, b) => a + b, 0));
      const below = () => sum((c) => c.told.notPositive);
      const said = [
        [sum((c) => c.told.nulls), "values are null (left out, or a gap)"],
        [log ? below() : 0, "values are ≤ 0, which a logarithmic axis cannot show"],
        [over("infinite"), "steps have infinite or NaN sums (crosses above), and no value"],
        [over("rounding"), "distances are mostly rounding (low_precision; the bar below)"],
      ];
      const text = said.filter(([n]) => n > 0).map(([n, what]) => `${thousands(n)} of ${thousands(total)} ${what}.`);
      this.box.querySelector(".remark").textContent = text.join(" ");
    }

    // Says what the curves are at a place of the joined steps.
    read(idx) {
      const out = this.box.querySelector(".readout");
      const x = idx === null ? null : this.plotted.data[0][idx];
      const caption = out.createCaption();
      const rows = this.curves.map((c) => {
        const i = x === null ? null : nearest(base[c.key].x, x);
        return { c, i, cells: i === null ? ["–", "–", "–"] : cells(c, i) };
      });
      caption.textContent = x === null ? "" : where(rows[0].c.key, rows[0].i);
      const head = this.curves.some((c) => c.lo) ? ["mean", "smallest", "largest"] : ["value"];
      const body = document.createElement("tbody");
      rows.forEach(({ c, cells }) => {
        const row = body.insertRow();
        const name = document.createElement("th");
        name.append(swatch(c.colour), nameOf(c.key));
        name.title = nameOf(c.key);
        row.append(name);
        cells.slice(0, head.length).forEach((cell) => {
          const [value, step] = [].concat(cell);
          const td = row.insertCell();
          td.textContent = value;
          if (step === undefined) return;
          const small = document.createElement("small");
          small.textContent = ` step ${step}`;
          td.append(small);
        });
      });
      const top = document.createElement("thead");
      const line = top.insertRow();
      ["", ...head].forEach((text) => line.append(Object.assign(document.createElement("th"), { textContent: text })));
      out.replaceChildren(caption, top, body);
    }
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
        return begins.filter((i) => Math.floor(epoch[i]) % every === 0).map((i) => x[i]);
      },
      values: (u, at) => at.map((v) => String(Math.floor(epoch[nearest(x, v)]))) };
  }

  function swatch(colour) {
    const mark = document.createElement("span");
    mark.className = "swatch";
    mark.style.background = colour;
    return mark;
  }

  /* Zoom, the same in all charts. */

  const charts = [];
  let waiting = false;

  // Shows these steps; null: all.
  function zoom(view) {
    const [least, most] = whole();
    if (view) {
      const width = Math.min(Math.max(view[1] - view[0], 2), most - least);
      const lo = Math.min(Math.max((view[0] + view[1] - width) / 2, least), most - width);
      view = width >= most - least ? null : [lo, lo + width];
    }
    state.view = view;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      charts.forEach((chart) => {
        if (chart.visible && chart.plotted && !chart.stale) chart.plotted.setData(chart.plotted.data);
        else chart.stale = true;
      });
      tell();
    });
  }

  // Zooms by a factor, around a step that stays where it is.
  function zoomBy(factor, at) {
    const [lo, hi] = state.view ?? whole();
    zoom([at - (at - lo) * factor, at + (hi - at) * factor]);
  }

  // Says how much one sees, and which command shows more.
  function tell() {
    const [lo, hi] = state.view ?? whole();
    const shown = keys().map(({ key }) => base[key].x.filter((x) => x >= lo && x <= hi).length);
    const points = Math.max(...shown, 0);
    const steps = [Math.max(Math.floor(lo), 0), Math.ceil(hi)];
    let text = `Steps ${thousands(steps[0])} to ${thousands(steps[1])}`;
    if (header.stepsAPoint > 1) {
      text += points > 0 ? `: ${thousands(points)} points of up to ${thousands(header.stepsAPoint)} steps.`
        : `, which is less than one point, of up to ${thousands(header.stepsAPoint)} steps.`;
      if (state.view && points < 100) text += ` Each step is shown by: ${header.command} --steps ${steps[0]}..${steps[1] + 1}`;
    } else {
      text += ".";
    }
    $("status").textContent = text;
  }

  // Wheel, fingers and keys on a chart.
  function listen(chart) {
    const { plot } = chart;
    const stepAt = (clientX) => {
      const u = chart.plotted;
      return u.posToVal(clientX - u.over.getBoundingClientRect().left, "x");
    };
    plot.addEventListener("wheel", (e) => {
      // Without a click the wheel moves the page.
      if (!chart.plotted || !(e.ctrlKey || plot === document.activeElement)) return;
      e.preventDefault();
      zoomBy(1.2 ** Math.sign(e.deltaY), stepAt(e.clientX));
    }, { passive: false });
    plot.addEventListener("mousedown", () => plot.focus({ preventScroll: true }));
    let fingers = null;
    const spread = (e) => [...e.touches].slice(0, 2).map((t) => t.clientX).sort((a, b) => a - b);
    plot.addEventListener("touchstart", (e) => {
      fingers = chart.plotted && e.touches.length === 2 ? spread(e).map(stepAt) : null;
    }, { passive: true });
    plot.addEventListener("touchmove", (e) => {
      if (!chart.plotted) return;
      const over = chart.plotted.over.getBoundingClientRect();
      if (fingers && e.touches.length === 2) {
        e.preventDefault();
        // The steps under both fingers stay there.
        const [a, b] = spread(e).map((x) => (x - over.left) / over.width);
        const width = (fingers[1] - fingers[0]) / Math.max(b - a, 0.02);
        zoom([fingers[0] - a * width, fingers[0] + (1 - a) * width]);
      } else if (e.touches.length === 1) {
        chart.plotted.setCursor({ left: e.touches[0].clientX - over.left, top: 1 });
      }
    }, { passive: false });
    plot.addEventListener("keydown", (e) => {
      const u = chart.plotted;
      if (!u || e.ctrlKey || e.metaKey || e.altKey) return;
      const [lo, hi] = [u.valToIdx(u.scales.x.min), u.valToIdx(u.scales.x.max)];
      const idx = u.cursor.idx ?? lo - 1;
      const move = (to) => {
        const at = Math.min(Math.max(to, lo), hi);
        u.setCursor({ left: u.valToPos(u.data[0][at], "x"), top: 1 });
      };
      const middle = u.cursor.idx == null ? (u.scales.x.min + u.scales.x.max) / 2 : u.data[0][u.cursor.idx];
      const does = {
        ArrowRight: () => move(idx + (e.shiftKey ? 10 : 1)), ArrowLeft: () => move(idx - (e.shiftKey ? 10 : 1)),
        Home: () => move(lo), End: () => move(hi),
        "+": () => zoomBy(0.5, middle), "=": () => zoomBy(0.5, middle), "-": () => zoomBy(2, middle), 0: () => zoom(null),
      }[e.key];
      if (!does) return;
      e.preventDefault();
      does();
    });
  }

  /* What is chosen. */

  // Fills a list with boxes to tick, those that a search finds.
  function list(id, names, ticked, change) {
    const field = $(id);
    const [search, box] = [field.querySelector("input"), field.querySelector(".list")];
    field.hidden = names.length < 2;
    search.hidden = names.length < 8;
    const fill = () => {
      const found = names.filter((name) => name.toLowerCase().includes(search.value.toLowerCase()));
      const lines = found.slice(0, SHOWN).map((name) => {
        const label = document.createElement("label");
        const tick = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked: ticked(name) });
        tick.onchange = () => {
          change(name, tick.checked);
          fill();
          box.querySelector(`input[value="${CSS.escape(name)}"]`)?.focus();
        };
        label.append(tick, name);
        return label;
      });
      if (found.length > SHOWN) {
        lines.push(Object.assign(document.createElement("p"), { textContent: `and ${thousands(found.length - SHOWN)} more: search` }));
      }
      box.replaceChildren(...lines);
    };
    search.oninput = fill;
    fill();
    return fill;
  }

  // References, streams and groups that are ticked; what is drawn is every curve there is of them.
  const chosen = [0, 1, 2].map((i) => new Set(header.first.map((key) => header.keys[key][i])));

  function choose(i, name, on) {
    const before = new Set(chosen[i]);
    if (on) chosen[i].add(name);
    else chosen[i].delete(name);
    const wanted = header.keys.flatMap((key, k) => (key.every((n, j) => chosen[j].has(n)) ? [k] : []));
    if (wanted.length > COLOURS.length) {
      chosen[i] = before;
      $("status").textContent = `At most ${COLOURS.length} curves are drawn at a time; untick one first.`;
      return;
    }
    // What stays keeps its colour.
    state.drawn = state.drawn.map((key) => (wanted.includes(key) ? key : null));
    for (const key of wanted.filter((k) => !state.drawn.includes(k))) state.drawn[state.drawn.indexOf(null)] = key;
    legend();
    tell();
    charts.forEach((chart) => chart.draw());
  }

  function legend() {
    $("legend").replaceChildren(...keys().map(({ key, colour }) => {
      const line = document.createElement("li");
      line.append(swatch(colour), nameOf(key));
      return line;
    }));
  }

  // Charts are drawn when they come into view.
  const watch = new IntersectionObserver((seen) => seen.forEach(({ target, isIntersecting }) => {
    const chart = charts.find((c) => c.box === target);
    chart.visible = isIntersecting;
    if (isIntersecting && chart.stale) chart.draw();
  }), { rootMargin: "100px" });

  const sizes = new ResizeObserver((all) => all.forEach(({ target }) => {
    const chart = charts.find((c) => c.plot === target);
    if (chart?.plotted && target.clientWidth !== chart.plotted.width) {
      chart.plotted.setSize({ width: Math.max(target.clientWidth, 50), height: HEIGHT });
    }
  }));

  function place() {
    const order = (m) => m.usual ?? 100;
    const wanted = [...state.metrics].map((name) => metrics.get(name)).sort((a, b) => order(a) - order(b));
    wanted.filter((m) => !charts.some((c) => c.metric === m)).forEach((m) => {
      const chart = new Chart(m);
      charts.push(chart);
      watch.observe(chart.box);
      sizes.observe(chart.plot);
    });
    $("charts").replaceChildren(...wanted.map((m) => charts.find((c) => c.metric === m).box));
  }

  function controls() {
    ["references", "streams", "groups"].forEach((id, i) => {
      const names = [...new Set(header.keys.map((k) => k[i]))];
      list(id, names, (name) => chosen[i].has(name), (name, on) => choose(i, name, on));
    });
    list("metrics", [...metrics.keys()], (name) => state.metrics.has(name), (name, on) => {
      if (on) state.metrics.add(name);
      else state.metrics.delete(name);
      place();
    });
    const [step, epoch] = $("axis").children;
    epoch.hidden = !header.epochs;
    for (const button of [step, epoch]) {
      button.onclick = () => {
        state.along = button.value;
        [step, epoch].forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
        charts.forEach((chart) => chart.draw());
      };
    }
    $("all").onclick = () => zoom(null);
  }

  async function start() {
    await unpackSteps();
    const usual = header.metrics.filter((m) => m.usual !== null);
    (usual.length ? usual : header.metrics.slice(0, 1)).forEach((m) => state.metrics.add(m.name));
    // From here on there are charts, and the figures are for paper.
    document.documentElement.classList.add("drawing");
    controls();
    legend();
    place();
    tell();
    dark.addEventListener("change", () => charts.forEach((chart) => chart.draw()));
  }

  start().catch((e) => console.error(e));
})();
