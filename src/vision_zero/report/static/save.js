/* Charts to keep: their numbers as CSV, their picture as PNG, made here without any network. */

const PICTURE = { width: 900, height: 420, edge: 24, line: 22 };

function save(name, address) {
  const link = el("a", { href: address, download: name.replace(/[^\w.-]+/g, "-") });
  document.body.append(link);
  link.click();
  link.remove();
}

/** The curves of a chart with their intervals, a line per iteration. */
function csvOf(chart) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  const columns = [["iteration", chart.x]];
  for (const curve of chart.curves) {
    columns.push([curve.label, curve.values]);
    if (curve.low) columns.push([curve.label + " low", curve.low], [curve.label + " high", curve.high]);
  }
  const rows = chart.x.map((_, row) => columns.map(([, values]) => values[row] ?? ""));
  return [columns.map(([label]) => quoted(label)), ...rows].map((row) => row.join(",") + "\n").join("");
}

/** Address of the picture of a chart: its title, the plot, and below it the legend. `plot` is a canvas. */
function pictureOf(chart, plot) {
  const { edge, line } = PICTURE;
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const font = (size, weight) => `${weight || 400} ${size}px system-ui, sans-serif`;
  const shown = [...chart.curves, ...chart.limits.filter((limit) => limit.label)];
  context.font = font(13);
  const places = [];
  let [x, y] = [edge, 0];
  for (const one of shown) {
    const width = 30 + context.measureText(one.label).width + 18;
    if (x > edge && x + width > plot.width - edge) [x, y] = [edge, y + line];
    places.push([x, y]);
    x += width;
  }
  const top = edge + 2 * line;
  canvas.width = plot.width;
  canvas.height = top + plot.height + y + 2 * line;
  context.fillStyle = colourOf("card");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(plot, 0, top);
  context.fillStyle = colourOf("text");
  context.font = font(17, 650);
  context.fillText(chart.title, edge, edge + 10);
  context.font = font(13);
  context.fillText(chart.about, edge, edge + 10 + line, canvas.width - 2 * edge);
  shown.forEach((one, number) => {
    const [left, down] = [places[number][0], top + plot.height + line + places[number][1]];
    context.strokeStyle = colourOf(one.colour);
    context.lineWidth = one.style === "bold" ? 3 : 2;
    context.setLineDash(dashOf(one));
    context.beginPath();
    context.moveTo(left, down - 4);
    context.lineTo(left + 24, down - 4);
    context.stroke();
    context.fillText(one.label, left + 30, down);
  });
  return canvas.toDataURL("image/png");
}
