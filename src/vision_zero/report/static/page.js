/* The page: its head, its tables, its colours; then the curves, then the games. */

const PAPER_WIDTH = 310;

function start() {
  const page = JSON.parse(byId("data").textContent);
  const runs = [page, page.against].filter(Boolean);
  let charts = null;
  colours(() => charts);
  runs.forEach(smooth);
  if (page.against) joinRuns(page);
  measureHeader();
  headline(runs);
  head(page, runs);
  charts = new Charts(page, byId("charts"), byId("spoken"));
  missing(page);
  byId("switch-table").append(...runs.map((run) => switches(run, runs.length > 1 ? run.run : "")));
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

/** The header stays in view, as high as its words make it: what is jumped to stops below it. */
function measureHeader() {
  const header = document.querySelector(".top");
  new ResizeObserver(() => document.documentElement.style.setProperty("--top", `${header.offsetHeight}px`)).observe(header);
}

function range([, low, high]) {
  return low === null ? "no interval" : `${digits(low)} to ${digits(high)}`;
}

function interval(figure) {
  return `${digits(figure[0])} (${range(figure)})`;
}

/** The win rate first, and what else the first and the last arena of a run say. */
function headline(runs) {
  const cards = runs.map((run) => winRate(run, runs.length > 1));
  const played = runs.filter((run) => run.arena.length);
  byId("headline").append(el("div", { class: "win-rates" }, cards));
  if (!played.length) return;
  const named = (run, end, words) => `${runs.length > 1 ? run.run + ", " : ""}${words}: iteration ${end.iteration}`;
  const ends = played.flatMap(({ arena, ...run }) => {
    const last = arena[arena.length - 1];
    const both = arena.length > 1 ? [[arena[0], "before"], [last, "after"]] : [[last, "so far"]];
    return both.map(([end, words]) => ({ head: named(run, end, words), figures: end.figures }));
  });
  const names = Object.entries(runs[0].headline).filter(([name]) => ends.some((end) => end.figures[name]));
  const levels = { win_rate: 0.5, "votes/right": runs.every((run) => run.chance === runs[0].chance) ? runs[0].chance : null };
  const cell = (figure) => (figure ? el("span", { class: "figure" }, el("b", {}, digits(figure[0])), " ", el("span", { class: "hint" }, range(figure))) : "–");
  const rows = names.map(([name, words]) => [words, ...ends.map((end) => cell(end.figures[name])), digits(levels[name])]);
  byId("headline").append(el("div", { class: "card" }, tableOf("", ["in the arena", ...ends.map((end) => end.head), "chance"], rows)));
}

function winRate(run, named) {
  const title = "Win rate against the frozen start" + (named ? ` · ${run.run}` : "");
  const last = run.arena[run.arena.length - 1];
  const figure = last && last.figures.win_rate;
  if (!figure) {
    const pairs = Number(run.options.holdout) > 0 ? "" : " --drawn 500";
    const how = `python -m vision_zero.evaluate win-rate ${run.path}${pairs} --out ${run.path}/evaluation.jsonl`;
    const below = run.evaluations.length ? " What was measured after training stands under Evaluation." : "";
    const why = last ? "It is not in arena.jsonl." : "No arena was played while training.";
    return el("div", { class: "card" }, el("h2", {}, title), el("p", {}, `Not known. ${why} To measure it now: `, el("code", {}, how), ` ; in the next run: --arena_every.${below}`));
  }
  const [value, low, high] = figure;
  const said = low === null ? "no interval can be claimed" : low > 0.5 ? "above chance" : high < 0.5 ? "below chance" : "the interval holds chance: no difference is shown";
  const bar = el("div", { class: "rate", role: "img", "aria-label": `${interval(figure)} on a line from 0 to 1, chance at 0.5` });
  const part = (kind, from, to) => {
    const piece = el("span", { class: kind });
    piece.style.left = `${100 * from}%`;
    piece.style.width = `${100 * (to - from)}%`;
    bar.append(piece);
  };
  if (low !== null) part("spread", Math.max(0, low), Math.min(1, high));
  part("chance", 0.5, 0.5);
  part("value", value, value);
  return el(
    "div",
    { class: "card win" },
    el("h2", {}, title),
    el("p", { class: "big" }, digits(value)),
    el("p", {}, `95% interval ${range(figure)}; chance 0.5; after iteration ${last.iteration}: ${said}`),
    bar,
  );
}

function head(page, runs) {
  const names = runs.map((run) => run.run);
  if (page.against) {
    byId("name").textContent = names.join(" against ");
    document.title = `${names.join(" against ")}: a run of Vision-Zero`;
    const rows = differentOptions(page);
    byId("differing").append(
      rows.length ? el("div", { class: "card" }, tableOf("Options that differ", ["option", ...names], rows)) : el("p", { class: "hint" }, "The two runs have the same options."),
    );
  }
  page.facts.forEach(([name, value], row) => {
    const others = page.against ? page.against.facts[row][1] : value;
    const second = others === value ? null : el("dd", { class: "hint" }, `${page.against.run}: ${others}`);
    byId("facts").append(el("div", {}, el("dt", {}, name), el("dd", {}, value), second));
  });
  for (const run of runs) {
    if (runs.length > 1) byId("ribbon").append(el("p", { class: "hint" }, `Stages of ${run.run}`));
    if (run.stages.length) byId("ribbon").append(ribbon(run, Math.max(...runs.map((one) => one.iterations))));
  }
  byId("pictures-hint").textContent =
    `${page.against ? `Of ${page.run}, as` : "As"} they were played. Images are reduced to at most ${page.image_size} pixels on the longer side.`;
  const notes = runs.flatMap((run) => run.notes.map((note) => (runs.length > 1 ? `${run.run}: ${note}` : note)));
  if (notes.length) {
    byId("notes").append(el("div", { class: "note" }, el("strong", {}, "What is missing"), el("ul", {}, notes.map((note) => el("li", {}, note)))));
  }
  byId("legend").append(
    page.against ? `Solid: ${names[0]}; dashed: ${names[1]}. Bands: stages of ${names[0]}: ` : "Over iterations. Bands: ",
    el("span", { class: "dot decision" }),
    "decision stage, ",
    el("span", { class: "dot clue" }),
    "clue stage. Dotted: chance and thresholds. Click on a point to see that iteration's games, drag to zoom, double click to see all again; with the keyboard, Tab to a chart, use the arrow keys, and Enter for the games.",
  );
}

/** Stages as parts of a bar, each with the longest of its labels that it has room for. */
function ribbon(page, longest) {
  const parts = page.stages.map((span) => {
    const iterations = span.first === span.last ? String(span.first) : `${span.first} to ${span.last}`;
    const words = `${span.stage}: ${iterations}`;
    const label = el("span", {});
    const element = el("span", { class: "part " + span.stage, title: "iterations of " + words }, label);
    element.style.flexGrow = span.last - span.first + 1;
    return { element, label, words: [words, iterations, ""] };
  });
  const bar = el("div", { class: "ribbon", role: "img", "aria-label": ribbonWords(page) }, parts.map((part) => part.element));
  bar.style.width = `${(100 * page.iterations) / longest}%`;
  new ResizeObserver(() => {
    for (const { element, label, words } of parts) {
      for (const text of words) {
        label.textContent = text;
        if (label.offsetWidth + 6 <= element.clientWidth) break;
      }
    }
  }).observe(bar);
  return bar;
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

function switches(page, name) {
  if (!page.switches.length) return el("p", { class: "hint" }, `${name ? name + ": the" : "The"} stage was not switched.`);
  const reasons = { rule: "rule: the averages passed the thresholds", patience: "patience: the stage had lasted long enough", cycle: "cycle: fixed lengths" };
  const rows = page.switches.map((one) => [
    String(one.iteration),
    `${one.from_stage} → ${one.to_stage}`,
    reasons[one.reason] || one.reason,
    digits(one.accuracy_average),
    digits(one.na_average),
    String(one.dwell),
  ]);
  return tableOf(name, ["after iteration", "stage", "reason", "average accuracy", "average N/A", "iterations in the stage"], rows);
}

function evaluations(page) {
  return page.evaluations.map((one) => {
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
