/* Curves: uPlot draws them; here is what they have in common. */

const WIDTHS = { bold: 2.4, line: 1.6, thin: 1, points: 1.2 };
const HEIGHT = 190;
const DASHES = { limit: [2, 3], other: [7, 4], none: [] };

/** Dashes of a curve, which is of the other run if `dashed`, or of a limit, which has one value. */
function dashOf(one) {
  return "value" in one ? DASHES.limit : one.dashed ? DASHES.other : DASHES.none;
}

/** Pixels of a vertical axis: as wide as its longest number, about 7 a character. */
function labelWidth(plot, numbers) {
  return Math.max(46, 14 + 7 * Math.max(0, ...(numbers || []).map((number) => number.length)));
}

class Charts {
  /** Cards for every chart that has numbers, in `place`; `spoken` says a point aloud that is reached by the keyboard. */
  constructor(page, place, spoken) {
    this.page = page;
    this.spoken = spoken;
    this.cards = page.charts
      .filter((chart) => !chart.missing)
      .map((chart) => {
        const plot = el("div", {
          class: "plot",
          id: "chart-" + chart.id,
          tabindex: "0",
          role: "group",
          "aria-label": this.summary(chart),
        });
        const card = el(
          "section",
          { class: "card chart", "aria-label": chart.title },
          el("h3", {}, chart.title),
          el("p", { class: "hint" }, chart.about),
          plot,
        );
        const entry = { chart, plot, drawn: null, at: -1 };
        card.append(this.below(entry));
        plot.addEventListener("keydown", (event) => this.key(entry, event));
        place.append(card);
        return entry;
      });
    new ResizeObserver(() => this.fit()).observe(place);
    this.draw();
  }

  /** Draw all again, as after a change of colours. `width`, for paper, is that of every plot until the next time. */
  draw(width) {
    this.fixed = width;
    for (const entry of this.cards) {
      if (entry.drawn) entry.drawn.destroy();
      entry.drawn = new uPlot(this.options(entry.chart, width || entry.plot.clientWidth || 320), this.data(entry.chart), entry.plot);
      this.hideBandsInLegend(entry);
      this.leadToGames(entry);
      entry.drawn.setLegend({ idx: entry.chart.x.length - 1 }, false);
    }
  }

  fit() {
    if (this.fixed) return;
    for (const { plot, drawn } of this.cards) {
      const width = plot.clientWidth;
      if (drawn && width && Math.abs(width - drawn.width) > 1) drawn.setSize({ width, height: HEIGHT });
    }
  }

  /** uPlot's columns: x, then the curves with the ends of their intervals, then the limits. */
  data(chart) {
    const columns = [chart.x];
    for (const curve of chart.curves) {
      columns.push(curve.values);
      if (curve.low) columns.push(curve.high, curve.low);
    }
    for (const limit of chart.limits) columns.push(chart.x.map(() => limit.value));
    return columns;
  }

  options(chart, width, height = HEIGHT) {
    const few = chart.x.length <= 30;
    const series = [{ label: "iteration", value: (plot, value) => (value === null ? "–" : digits(value)) }];
    const bands = [];
    for (const curve of chart.curves) {
      const colour = colourOf(curve.colour);
      const alone = curve.style === "points";
      series.push({
        label: curve.label,
        stroke: colour,
        width: WIDTHS[curve.style],
        dash: dashOf(curve),
        spanGaps: true,
        paths: alone ? () => null : undefined,
        points: { show: alone || (few && curve.style !== "thin" && chart.x.length < 16) || chart.x.length === 1, size: 5 },
        value: (plot, value, series, row) => lastKnown(chart.x, curve.values, row),
      });
      if (curve.low) {
        bands.push({ series: [series.length, series.length + 1], fill: colour + "2b" });
        const edge = { label: "", stroke: "transparent", width: 0, points: { show: false }, spanGaps: true };
        series.push({ ...edge, edge: true }, { ...edge, edge: true });
      }
    }
    for (const limit of chart.limits) {
      series.push({
        label: limit.label,
        stroke: colourOf(limit.colour),
        width: 1.2,
        dash: dashOf(limit),
        points: { show: false },
        edge: limit.label === "",
        value: (plot, value) => digits(limit.value),
      });
    }
    const last = Math.max(1, this.page.iterations, ...chart.x);
    const first = chart.x[0];
    const end = chart.x[chart.x.length - 1];
    const line = { stroke: colourOf("grid"), width: 1 };
    const axis = { stroke: colourOf("soft"), grid: line, ticks: line, font: "11px system-ui, sans-serif" };
    return {
      width,
      height,
      padding: [10, 16, 0, 0],
      cursor: { sync: { key: "iterations", scales: ["x", null] }, y: false, points: { size: 7 } },
      legend: { live: true, markers: { width: 0, fill: (plot, number) => markerOf(plot.series[number]) } },
      scales: {
        // All charts show the whole run until somebody zooms in.
        x: { time: false, range: (plot, from, to) => (from <= first && to >= end ? [0, last] : [from, to]) },
        y: chart.share ? { range: [0, 1] } : { range: (plot, low, high) => around(low, high) },
      },
      axes: [
        { ...axis, size: 26, incrs: [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10000], space: 42 },
        { ...axis, size: labelWidth, space: 28, values: (plot, ticks) => ticks.map((value) => (value === null ? "" : digits(value))) },
      ],
      series,
      bands,
      hooks: {
        drawClear: [(plot) => this.drawStages(plot)],
        draw: chart.switches ? [(plot) => this.drawSwitches(plot)] : [],
        // While nobody points at the chart, its legend has the last numbers.
        setLegend: [(plot) => plot.legend.idx === null && plot.setLegend({ idx: chart.x.length - 1 }, false)],
      },
    };
  }

  hideBandsInLegend({ drawn }) {
    const rows = drawn.root.querySelectorAll(".u-legend .u-series");
    drawn.series.forEach((one, number) => rows[number].classList.toggle("edge", Boolean(one.edge)));
    // The legend is a table of labels and values for the eye; the numbers below a chart are the one to read.
    drawn.root.querySelector(".u-legend").setAttribute("aria-hidden", "true");
  }

  drawStages(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const span of this.page.stages) {
      ctx.fillStyle = colourOf(span.stage + "-band");
      const from = plot.valToPos(span.first - 1, "x", true);
      ctx.fillRect(from, bbox.top, plot.valToPos(span.last, "x", true) - from, bbox.height);
    }
    ctx.restore();
  }

  /** A line at each switch with its reason, where there is room for the word; the table below has all of them. */
  drawSwitches(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.font = `${10 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.fillStyle = ctx.strokeStyle = colourOf("soft");
    ctx.lineWidth = ratio;
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    let free = bbox.left;
    for (const one of this.page.switches) {
      const x = plot.valToPos(one.iteration, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const width = ctx.measureText(one.reason).width + 6 * ratio;
      const left = Math.min(x + 3 * ratio, bbox.left + bbox.width - width);
      if (left >= free) {
        ctx.fillText(one.reason, left, bbox.top + 11 * ratio);
        free = left + width;
      }
    }
    ctx.restore();
  }

  summary(chart) {
    const parts = chart.curves.map((curve) => {
      const values = curve.values.filter((value) => value !== null);
      return `${curve.label} from ${digits(values[0])} to ${digits(values[values.length - 1])}`;
    });
    return `Chart: ${chart.title}. ${parts.join("; ")}. Left and right arrow keys read its points.`;
  }

  /** A click leads to the games of the iteration that is pointed at, unless it is the first of two, which zoom out. */
  leadToGames({ chart, drawn }) {
    let waiting = 0;
    drawn.over.addEventListener("click", () => {
      const row = drawn.cursor.idx;
      clearTimeout(waiting);
      if (row !== null && row !== undefined) waiting = setTimeout(() => goToGames(chart.x[row]), 300);
    });
    drawn.over.addEventListener("dblclick", () => clearTimeout(waiting));
  }

  key(entry, event) {
    if (event.key === "Enter" && entry.at >= 0 && event.target === entry.plot) return goToGames(entry.chart.x[entry.at]);
    const n = entry.chart.x.length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -n, End: n };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    entry.at = Math.min(n - 1, Math.max(0, entry.at + steps[event.key]));
    const { chart, drawn } = entry;
    drawn.setCursor({ left: drawn.valToPos(chart.x[entry.at], "x"), top: 10 });
    const said = chart.curves.map((curve) => `${curve.label} ${digits(curve.values[entry.at])}`);
    this.spoken.textContent = `iteration ${digits(chart.x[entry.at])}: ${said.join(", ")}`;
  }

  /** Below a chart: its numbers, and what can be kept of it. */
  below(entry) {
    const { chart } = entry;
    const name = `${this.page.run}-${chart.id}`;
    const button = (text, title, onclick) => el("button", { type: "button", class: "keep", title, "aria-label": `${chart.title}: ${title}`, onclick }, text);
    return el(
      "div",
      { class: "below" },
      this.numbers(chart),
      button("CSV", "save the numbers as CSV", () => save(name + ".csv", "data:text/csv;charset=utf-8," + encodeURIComponent(csvOf(chart)))),
      button("PNG", "save the picture as PNG", () => this.savePicture(chart, name + ".png")),
    );
  }

  /** Draw the chart again, larger, where nobody sees it. */
  savePicture(chart, name) {
    const place = el("div", { class: "unseen" });
    document.body.append(place);
    const options = this.options(chart, PICTURE.width, PICTURE.height);
    const draw = [...options.hooks.draw, (plot) => setTimeout(() => {
      save(name, pictureOf(chart, plot.ctx.canvas));
      plot.destroy();
      place.remove();
    })];
    new uPlot({ ...options, cursor: { show: false }, legend: { show: false }, hooks: { ...options.hooks, setLegend: [], draw } }, this.data(chart), place);
  }

  /** The chart as a table, made when it is opened. */
  numbers(chart) {
    const details = el("details", { class: "numbers" }, el("summary", {}, "Numbers"));
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      const head = ["iteration", ...chart.curves.map((curve) => curve.label)];
      const rows = chart.x.map((x, row) => [
        digits(x),
        ...chart.curves.map((curve) =>
          curve.low && curve.low[row] !== null
            ? `${digits(curve.values[row])} (${digits(curve.low[row])} to ${digits(curve.high[row])})`
            : digits(curve.values[row]),
        ),
      ]);
      details.append(tableOf("", head, rows));
    });
    return details;
  }
}

/** Ground of a curve's marker in the legend, with the gaps of its dashes. */
function markerOf(series) {
  const colour = typeof series.stroke === "function" ? series.stroke() : series.stroke;
  const [ink, gap] = series.dash || [];
  return ink ? `repeating-linear-gradient(90deg, ${colour} 0 ${ink}px, transparent ${ink}px ${ink + gap}px)` : colour;
}

/** The number of a row in the legend; where there is none, the last one before it and its iteration. */
function lastKnown(x, values, row) {
  if (row === null || row === undefined) return "–";
  let known = row;
  while (known >= 0 && values[known] === null) known -= 1;
  return known < 0 ? "–" : digits(values[known]) + (known < row ? ` (at ${digits(x[known])})` : "");
}

/** Curves of the style `smoothed` as moving averages with the decay `rho`, corrected for their start at 0. */
function smooth(page) {
  const rho = Number(page.options.rho);
  const isDecay = rho >= 0 && rho < 1;
  for (const chart of page.charts) {
    if (!isDecay) chart.curves = chart.curves.filter((curve) => curve.style !== "smoothed");
    for (const curve of chart.curves.filter((one) => one.style === "smoothed")) {
      let [total, weight] = [0, 0];
      curve.style = "bold";
      curve.values = curve.values.map((value) => {
        if (value !== null) [total, weight] = [rho * total + (1 - rho) * value, rho * weight + 1 - rho];
        return weight ? total / weight : null;
      });
    }
  }
}

/** The address of an iteration's games leads there (games.js). Point 0 is the start, which plays the first games. */
function goToGames(x) {
  const address = "#" + gameAddress(Math.max(1, Math.ceil(x)));
  if (location.hash === address) dispatchEvent(new Event("hashchange"));
  else location.hash = address;
}

/** An axis with a little room around its numbers, also where they are all the same. */
function around(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.5;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}
