/* The page: its head, its tables, its colours; then the curves, then the games. */

const PAPER_WIDTH = 310;

function start() {
  const page = JSON.parse(byId("data").textContent);
  let charts = null;
  colours(() => charts);
  head(page);
  charts = new Charts(page, byId("charts"), byId("spoken"));
  missing(page);
  byId("switch-table").append(switches(page));
  byId("evaluations").append(...evaluations(page));
  byId("evaluation").hidden = byId("to-evaluation").hidden = !page.evaluations.length;
  // The curves are painted before the games are made.
  requestAnimationFrame(() =>
    setTimeout(() => {
      new Games(page, JSON.parse(byId("images").textContent));
      document.documentElement.dataset.ready = "true";
    }),
  );
}

function head(page) {
  byId("facts").append(...page.facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  if (page.stages.length) {
    const parts = page.stages.map((span) => {
      const length = span.last - span.first + 1;
      const words = `${span.stage}: ${span.first === span.last ? span.first : `${span.first} to ${span.last}`}`;
      const part = el("span", { class: "part " + span.stage, title: "iterations of " + words }, length * 12 > page.iterations ? words : "");
      part.style.flexGrow = length;
      return part;
    });
    byId("ribbon").append(el("div", { class: "ribbon", role: "img", "aria-label": ribbonWords(page) }, parts));
  }
  byId("pictures-hint").textContent =
    `As they were played. Images are reduced to at most ${page.image_size} pixels on the longer side.`;
  if (page.notes.length) {
    byId("notes").append(el("div", { class: "note" }, el("strong", {}, "What is missing"), el("ul", {}, page.notes.map((note) => el("li", {}, note)))));
  }
  byId("legend").append(
    "Over iterations. Bands: ",
    el("span", { class: "dot decision" }),
    "decision stage, ",
    el("span", { class: "dot clue" }),
    "clue stage. Drag to zoom, double click to see all again; with the keyboard, Tab to a chart and use the arrow keys.",
  );
}

function ribbonWords(page) {
  return "Stages over iterations: " + page.stages.map((span) => `${span.stage} ${span.first} to ${span.last}`).join(", ");
}

function missing(page) {
  const without = page.charts.filter((chart) => chart.missing);
  if (!without.length) return;
  const items = without.map((chart) => el("li", {}, el("strong", {}, chart.title), ": ", chart.missing));
  byId("missing").append(el("div", { class: "note" }, el("strong", {}, "Not drawn"), el("ul", {}, items)));
}

function switches(page) {
  if (!page.switches.length) return el("p", { class: "hint" }, "The stage was not switched.");
  const reasons = { rule: "rule: the averages passed the thresholds", patience: "patience: the stage had lasted long enough", cycle: "cycle: fixed lengths" };
  const rows = page.switches.map((one) => [
    String(one.iteration),
    `${one.from_stage} → ${one.to_stage}`,
    reasons[one.reason] || one.reason,
    digits(one.accuracy_average),
    digits(one.na_average),
    String(one.dwell),
  ]);
  return tableOf("", ["after iteration", "stage", "reason", "average accuracy", "average N/A", "iterations in the stage"], rows);
}

function evaluations(page) {
  return page.evaluations.map((one) => {
    const interval = ([value, low, high]) =>
      `${digits(value)} (${low === null ? "no interval" : `${digits(low)} to ${digits(high)}`})`;
    const rows = Object.entries(one.figures).map(([name, figure]) => [
      name,
      interval(figure),
      one.start[name] ? interval(one.start[name]) : "",
    ]);
    const table = tableOf("Win rate and cross-play with 95% intervals", ["figure", "this model", "start model"], rows);
    return el("details", { class: "card", open: page.evaluations.length === 1 }, el("summary", {}, `Evaluation of ${one.model}, ${one.games} games`), table);
  });
}

/** Light and dark as the system says, until the button says otherwise. Paper is light. */
function colours(charts) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const root = document.documentElement;
  let chosen = null;
  let shown = null;
  function apply(onPaper) {
    const theme = onPaper ? "light" : chosen || (dark.matches ? "dark" : "light");
    root.dataset.theme = theme;
    byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
    byId("theme").setAttribute("aria-label", `Use ${theme === "dark" ? "light" : "dark"} colours`);
    const now = theme + (onPaper ? " paper" : "");
    if (now !== shown && charts()) charts().draw(onPaper ? PAPER_WIDTH : undefined);
    shown = now;
  }
  byId("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    apply(false);
  });
  dark.addEventListener("change", () => apply(paper.matches));
  paper.addEventListener("change", () => apply(paper.matches));
  addEventListener("beforeprint", () => apply(true));
  addEventListener("afterprint", () => apply(false));
  apply(paper.matches);
}

start();
