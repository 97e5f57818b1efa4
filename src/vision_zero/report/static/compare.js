/* Two runs in the same charts: the page's own is drawn solid, the other one dashed. */

/** As many folders of two paths as it takes to tell them apart. */
function differentNames(...paths) {
  const parts = paths.map((path) => path.split(/[\\/]/).filter(Boolean));
  const longest = Math.max(...parts.map((folders) => folders.length));
  let names = paths;
  for (let depth = 1; depth <= longest; depth += 1) {
    names = parts.map((folders) => folders.slice(-depth).join("/"));
    if (names[0] !== names[1]) break;
  }
  return names;
}

/** Put the curves of `page.against` into the charts of `page`. */
function joinRuns(page) {
  const other = page.against;
  [page.run, other.run] = differentNames(page.path, other.path);
  const theirs = new Map(other.charts.map((chart) => [chart.id, chart]));
  const mine = new Set(page.charts.map((chart) => chart.id));
  page.charts = [
    ...page.charts.map((chart) => (theirs.has(chart.id) ? joined(chart, theirs.get(chart.id), page, other) : chart)),
    ...other.charts.filter((chart) => !mine.has(chart.id)).map((chart) => ofOther(chart, other.run)),
  ];
}

function joined(chart, other, page, otherPage) {
  if (chart.missing && other.missing) return chart;
  const why = [[page.run, chart.missing], [otherPage.run, other.missing]].filter(([, missing]) => missing);
  const about = [chart.about, ...why.map(([run, missing]) => `Not of ${run}: ${missing}.`)].join(" ");
  if (chart.missing) return { ...ofOther(other, otherPage.run), about };
  if (other.missing) return { ...chart, about };
  const added = ofOther(other, otherPage.run);
  const x = [...new Set([...chart.x, ...other.x])].sort((a, b) => a - b);
  const spread = (own) => (curve) => {
    const rows = new Map(own.map((at, row) => [at, row]));
    const column = (values) => values && x.map((at) => (rows.has(at) ? values[rows.get(at)] : null));
    return { ...curve, values: column(curve.values), low: column(curve.low), high: column(curve.high) };
  };
  const same = (a, b) => a.value === b.value && a.label === b.label;
  return {
    ...chart,
    about,
    x,
    curves: [...chart.curves.map(spread(chart.x)), ...added.curves.map(spread(other.x))],
    limits: [...chart.limits, ...added.limits.filter((limit) => !chart.limits.some((own) => same(own, limit)))],
  };
}

/** The chart of the other run: its curves are dashed and have its name. */
function ofOther(chart, run) {
  const named = (one) => ({ ...one, label: one.label && `${one.label} · ${run}` });
  return { ...chart, curves: chart.curves.map((curve) => ({ ...named(curve), dashed: true })), limits: chart.limits.map(named) };
}

/** Options that the two runs do not share, as rows: name, value, the other's value. */
function differentOptions(page) {
  const [mine, theirs] = [page.options, page.against.options];
  const names = [...new Set([...Object.keys(mine), ...Object.keys(theirs)])].sort();
  const said = (options, name) => (name in options ? options[name] : "not there");
  return names.filter((name) => said(mine, name) !== said(theirs, name)).map((name) => [name, said(mine, name), said(theirs, name)]);
}
