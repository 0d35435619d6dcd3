// Zoom, choices, and when charts are drawn: the last of the files that are put together.

/* Zoom, the same in all charts. */

const charts = [];
// Charts that show other steps than they should.
let behind = [];
let drawing = false;

// Shows these steps; null: all.
// Steps to both sides of an event that are shown.
const AROUND = 40;

function zoom(view) {
  const [least, most] = whole();
  if (view) {
    const width = Math.min(Math.max(view[1] - view[0], 2), most - least);
    const lo = Math.min(Math.max((view[0] + view[1] - width) / 2, least), most - width);
    view = width >= most - least ? null : [lo, lo + width];
  }
  state.view = view;
  behind = charts.filter((chart) => chart.visible && chart.plotted && !chart.stale);
  charts.filter((chart) => !behind.includes(chart)).forEach((chart) => { chart.stale = true; });
  // The one that is looked at comes first, and a frame has one.
  const looked = (chart) => Number(chart.plot === document.activeElement);
  behind.sort((a, b) => looked(b) - looked(a));
  if (!drawing) requestAnimationFrame(follow);
  drawing = true;
  tell();
}

function follow() {
  const chart = behind.shift();
  if (chart?.plotted) {
    chart.plotted.setData(chart.plotted.data);
    chart.list();
  }
  drawing = behind.length > 0;
  if (drawing) requestAnimationFrame(follow);
}

// Zooms by a factor, around a step that stays where it is.
function zoomBy(factor, at) {
  const [lo, hi] = state.view ?? whole();
  zoom([at - (at - lo) * factor, at + (hi - at) * factor]);
}

// Says how much one sees, and which command shows more.
function tell() {
  const [lo, hi] = state.view ?? whole();
  const shown = keys().map(({ key }) => {
    const { x, first, last } = base[key];
    const here = [...x.keys()].filter((i) => x[i] >= lo && x[i] <= hi);
    return here.length ? { points: here.length, first: first[here[0]], last: last[here.at(-1)] } : { points: 0 };
  });
  const points = Math.max(...shown.map((s) => s.points), 0);
  const steps = points > 0
    ? [Math.min(...shown.map((s) => s.first ?? Infinity)), Math.max(...shown.map((s) => s.last ?? 0))]
    : [Math.max(Math.floor(lo), 0), Math.ceil(hi)];
  let text = `Steps ${thousands(steps[0])} to ${thousands(steps[1])}`;
  if (header.stepsAPoint > 1) {
    text += points > 0 ? `: ${thousands(points)} points of up to ${thousands(header.stepsAPoint)} steps.`
      : `, which is less than one point, of up to ${thousands(header.stepsAPoint)} steps.`;
    if (state.view && points < 100) text += ` Each step is shown by: ${header.command} --steps ${steps[0]}..${steps[1] + 1}`;
  } else {
    text += ".";
  }
  const hidden = state.logSteps ? keys().filter(({ key }) => base[key].x[0] <= 0).length : 0;
  if (hidden > 0) text += " A logarithmic axis does not show step 0.";
  if (state.logSteps && header.stepsAPoint > 1) text += ` Points of equal numbers of steps lie far apart at its beginning: the first is ${thousands(header.stepsAPoint)} steps.`;
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

// Runs, references, streams and groups that are ticked; what is drawn is every curve there is of them.
const chosen = [0, 1, 2, 3].map((i) => new Set(header.first.map((key) => header.keys[key][i])));

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
  ["runs", "references", "streams", "groups"].forEach((id, i) => {
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
  $("log-steps").onclick = ({ target }) => {
    state.logSteps = !state.logSteps;
    target.setAttribute("aria-pressed", String(state.logSteps));
    zoom(null);
    charts.forEach((chart) => chart.draw());
  };
  // Events bring the curves to their steps.
  for (const button of document.querySelectorAll("button.step")) {
    const step = Number(button.dataset.step);
    button.onclick = () => {
      zoom([step - AROUND, step + AROUND]);
      $("curves").scrollIntoView();
    };
  }
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
