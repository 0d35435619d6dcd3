// A chart: one metric, by step, of the curves that are chosen.

// A walk's t lies between this and its negative.
const BEYOND = 4;

class Chart {
  constructor(metric) {
    this.metric = metric;
    this.box = document.createElement("article");
    this.box.className = "chart";
    this.box.dataset.metric = metric.name;
    this.box.innerHTML = `<header><h3></h3><p></p><button type="button" aria-pressed="false">98 %</button>
      <button type="button" aria-pressed="false">log</button></header>
      <div class="plot" tabindex="0" role="group"></div><table class="readout" hidden></table><p class="remark"></p>
      <details class="numbers"><summary>Numbers</summary><div class="scroll" tabindex="0" role="region"><table class="data"></table></div></details>`;
    const [title, about, cut, log] = this.box.querySelector("header").children;
    title.textContent = metric.name;
    about.textContent = metric.about;
    this.switch(log, state.log, `logarithmic axis of ${metric.name}`);
    this.switch(cut, state.cut, `axis of ${metric.name} between the 1 % and the 99 % quantile of its points`);
    this.numbers = this.box.querySelector(".numbers");
    this.numbers.querySelector("div").setAttribute("aria-label", `Numbers of ${metric.name}`);
    this.numbers.ontoggle = () => this.list();
    this.plot = this.box.querySelector(".plot");
    this.plot.setAttribute("aria-label",
      `Chart of ${metric.name}: arrows move the cursor, plus and minus zoom, 0 shows all steps`);
    this.stale = true;
    this.visible = false;
    listen(this);
  }

  // A button that puts the metric into a set, and takes it out.
  switch(button, set, label) {
    button.setAttribute("aria-label", label);
    button.onclick = () => {
      const on = !set.delete(this.metric.name);
      if (on) set.add(this.metric.name);
      button.setAttribute("aria-pressed", String(on));
      this.draw();
    };
  }

  // Lists numbers of the steps that are shown, where that is open.
  list() {
    const there = this.numbers.open && this.plotted;
    this.numbers.querySelector("table").replaceChildren(...(there ? tenths(this) : []));
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
    this.ends = state.cut.has(this.metric.name) ? middle(this.curves) : null;
    this.remark(log);
    if (this.curves.length === 0 || (log && this.floor === null)) {
      this.say(this.curves.length ? "no value is above 0" : "null at every step of these curves");
      return;
    }
    const { data, series, bands } = this.series(beside, log);
    this.plotted = this.box.uplot = new uPlot(this.options(series, bands, log), data, this.plot);
    this.list();
  }

  say(what) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = what;
    this.plot.replaceChildren(empty);
    this.box.querySelector(".readout").hidden = true;
    this.list();
  }

  series(beside, log) {
    // The lower end of a band goes to the end of the axis.
    const shown = log ? (v, end) => (v >= this.floor ? v : end === 0 ? this.floor : null) : (v) => v;
    const [tables, series, bands] = [[], [{}], []];
    // Bands lie below all lines. Their edges show what is one step wide.
    for (const c of this.curves.filter((c) => c.lo)) {
      const ends = table(c.key, [c.lo, c.hi], shown);
      if (log) this.hide(ends);
      tables.push(ends);
      bands.push({ series: [series.length + 1, series.length], fill: `${c.colour}40` });
      const edge = { label: `band of ${nameOf(c.key)}`, stroke: `${c.colour}80`, width: 0.75, points: { show: false } };
      series.push({ ...edge }, { ...edge });
    }
    for (const c of this.curves) {
      tables.push(table(c.key, [c.mean], (v) => (log && v < this.floor ? null : v)));
      series.push({ label: nameOf(c.key), stroke: c.colour, width: 1.25, points: { show: base[c.key].n < 60 } });
    }
    const dashes = this.metric.beside === "cos_walk" ? [8, 5] : [2, 4];
    const known = [];
    for (const c of this.curves.filter((c) => beside[c.key])) {
      const t = table(c.key, [beside[c.key].mean], (v) => (log && v < this.floor ? null : v));
      // What is the same for several is drawn once.
      if (known.some((other) => same(other[1], t[1]) && same(other[0], t[0]))) continue;
      known.push(t);
      series.push({ label: this.metric.beside, stroke: dark.matches ? "#fff" : "#000", width: 1.25, dash: dashes, points: { show: false } });
    }
    return { data: join([...tables, ...known]), series, bands };
  }

  // Where nothing of a point is above 0, there is no band either.
  hide([, lo, hi]) {
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
      scales: { x: { time: false, distr: state.logSteps ? 3 : 1, range: () => state.view ?? whole() },
        y: { distr: log ? 3 : 1, range: (u, lo, hi) => (log ? this.logRange(lo, hi) : this.range(lo, hi)) } },
      axes: [{ ...axis, size: 26, label: state.along, labelSize: 18, ...along(this) }, { ...axis, size: 62, values: (u, at, i, space, step) => labels(at, log ? null : step) }],
      hooks: { setCursor: [(u) => this.read(u.cursor.idx ?? null)], draw: [(u) => this.mark(u)],
        setSelect: [(u) => this.select(u)] },
    };
  }

  // A distance is seen whole, and t beside what a walk's has.
  range(lo, hi) {
    if (this.ends) return range(...this.ends);
    if (this.metric.name === "t_excess") return range(Math.min(lo ?? 0, -BEYOND), Math.max(hi ?? 0, BEYOND));
    if (this.metric.name === "dist" && lo >= 0) return [0, range(0, hi)[1]];
    return range(lo, hi);
  }

  logRange(lo, hi) {
    if (this.ends && this.ends[1] > 0) [lo, hi] = [Math.max(this.ends[0], this.floor), this.ends[1]];
    if (!(hi > 0)) return [this.floor, this.floor * 10];
    return lo < hi ? [lo / (hi / lo) ** 0.03, hi * (hi / lo) ** 0.03] : [lo / 2, lo * 2];
  }

  select(u) {
    if (u.select.width > 3) {
      zoom([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
    }
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  // Crosses where sums are infinite or NaN, and a bar below where distances are below 1,000 roundings.
  mark(u) {
    const { ctx, bbox } = u;
    const dots = devicePixelRatio;
    ctx.save();
    if (this.metric.name === "t_excess") this.scatter(u);
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

  // Lines between which the t of a walk lies.
  scatter(u) {
    const { ctx, bbox } = u;
    ctx.strokeStyle = dark.matches ? "#fff" : "#000";
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([8, 5].map((v) => v * devicePixelRatio));
    for (const t of [-BEYOND, BEYOND].filter((t) => t >= u.scales.y.min && t <= u.scales.y.max)) {
      const y = u.valToPos(t, "y", true);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    ctx.setLineDash([]);
  }

  // What a reader must know of what is not drawn.
  remark(log) {
    const sum = (of) => this.curves.reduce((all, c) => all + of(c), 0);
    const over = (of) => sum((c) => base[c.key][of].reduce((a, b) => a + b, 0));
    const total = over("rows");
    const said = [
      [sum((c) => c.nulls), "values are null (left out, or a gap)"],
      [log ? sum((c) => c.notPositive) : 0, "values are ≤ 0, which a logarithmic axis cannot show"],
      [log ? sum((c) => c.mean.filter((v) => v > 0 && v < this.floor).length) : 0,
        `means are more than ${DECADES} decades below the largest, and not shown`],
      [over("infinite"), "steps have infinite or NaN sums (crosses above), and no value"],
      [over("rounding"), "distances are below 1,000 roundings (low_precision; the bar below)"],
    ];
    const text = said.filter(([n]) => n > 0).map(([n, what]) => `${thousands(n)} of ${thousands(total)} ${what}.`);
    if (this.ends) {
      const points = sum((c) => c.mean.filter((v) => !Number.isNaN(v)).length);
      const outside = sum((c) => c.mean.filter((v) => v < this.ends[0] || v > this.ends[1]).length);
      text.push(`${thousands(outside)} of ${thousands(points)} points lie outside of the 1 % to 99 % quantiles that are shown.`);
    }
    this.box.querySelector(".remark").textContent = text.join(" ");
  }

  // Says what the curves are at a place of the joined steps; what was said last stays.
  read(idx) {
    if (idx === null) return;
    const out = this.box.querySelector(".readout");
    const x = this.plotted.data[0][idx];
    out.hidden = false;
    const caption = out.createCaption();
    const rows = this.curves.map((c) => {
      const i = nearest(base[c.key].x, x);
      return { c, i, cells: i === null ? ["–", "–", "–"] : cells(c, i) };
    });
    caption.textContent = where(rows[0].c.key, rows[0].i);
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
