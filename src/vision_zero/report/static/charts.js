/* Curves: uPlot draws them; here is what they have in common. */

const WIDTHS = { bold: 2.4, line: 1.6, thin: 1, points: 1.2 };
const HEIGHT = 190;

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
          this.numbers(chart),
        );
        const entry = { chart, plot, drawn: null, at: -1 };
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

  options(chart, width) {
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
        spanGaps: true,
        paths: alone ? () => null : undefined,
        points: { show: alone || (few && curve.style !== "thin" && chart.x.length < 16) || chart.x.length === 1, size: 5 },
        value: (plot, value) => digits(value),
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
        dash: [5, 4],
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
      height: HEIGHT,
      padding: [10, 8, 0, 0],
      cursor: { sync: { key: "iterations", scales: ["x", null] }, y: false, points: { size: 7 } },
      legend: { live: true },
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

  key(entry, event) {
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

/** An axis with a little room around its numbers, also where they are all the same. */
function around(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.5;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}
