// The two plots, drawn by uPlot. Their data is in `series.ts`.

import uPlot from "uplot";
import { bytes, shortCount } from "./format";
import { band, type Series } from "./series";
import { colour } from "./theme";

const TOKENS = ["rate", "errors", "mean", "band", "packets", "packets-fill", "bytes", "ban", "anomaly", "grid", "axis"] as const;
type Palette = Record<(typeof TOKENS)[number], string>;

/** Marks closer than this are drawn as one. */
const MARK_WIDTH_PX = 12;
/** Below this width there is no room for an axis on the right. */
const NARROW_PX = 560;
const RIGHT_AXIS_PX = 62;
/** The bytes' axis: after the one of time and the one of packets. */
const BYTES_AXIS = 2;
/** Steps of the bytes' axis: powers of two, because the units are. */
const BYTE_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const AXIS_FONT = "11px system-ui, sans-serif";
const SYNC = "traffic";

/** Columns of the plots, in the order of their data. */
export const RATE = { at: 0, rate: 1, errors: 2, mean: 3, low: 4, high: 5 } as const;
export const DROPS = { at: 0, packets: 1, bytes: 2 } as const;

let palette = readPalette;

function readPalette(): Palette {
  const read = Object.fromEntries(TOKENS.map((token) => [token, colour(`plot-${token}`)])) as Palette;
  palette = () => read;
  return read;
}

/** Reads the colours again at the next drawing. */
export function forgetPalette(): void {
  palette = readPalette;
}

export function rateData({ columns }: Series): uPlot.AlignedData {
  const { low, high } = band(columns);
  return [columns.at, columns.rate, columns.errors, columns.mean, low, high];
}

export function dropData({ columns }: Series): uPlot.AlignedData {
  return [columns.at, columns.packets, columns.bytes];
}

/** The rate and the normal band, with the marks of `series`. */
export function ratePlot(parent: HTMLElement, series: () => Series, hovered: (at: number | null) => void): uPlot {
  const line = (token: keyof Palette, width: number, dash?: number[]): uPlot.Series => ({
    stroke: () => palette()[token],
    width,
    points: { show: false },
    ...(dash === undefined ? {} : { dash }),
  });
  return new uPlot(
    {
      ...common(parent),
      // As wide as the other plot's right axis, so that a moment is at the same place in both.
      padding: [10, (plot) => rightPx(plot) + 8, 0, 0],
      series: [{}, line("rate", 2), line("errors", 1.5), line("mean", 1.25, [5, 4]), line("band", 0), line("band", 0)],
      bands: [{ series: [RATE.high, RATE.low], fill: () => palette().band }],
      scales: { x: { time: true }, y: { range: fromZero(1) } },
      axes: [timeAxis(), valueAxis((value) => shortNumber(value))],
      hooks: {
        drawClear: [(plot) => drawAnomalies(plot, series())],
        draw: [(plot) => drawBans(plot, series())],
        setCursor: [(plot) => hovered(plot.cursor.idx ?? null)],
      },
    },
    rateData(series()),
    parent,
  );
}

/** Packets (left) and bytes (right) dropped per second. */
export function dropPlot(parent: HTMLElement, series: () => Series, hovered: (at: number | null) => void): uPlot {
  return new uPlot(
    {
      ...common(parent),
      padding: [10, 8, 0, 0],
      series: [
        {},
        { scale: "packets", stroke: () => palette().packets, fill: () => palette()["packets-fill"], width: 1.5, points: { show: false } },
        { scale: "bytes", stroke: () => palette().bytes, width: 1.25, dash: [2, 3], points: { show: false } },
      ],
      scales: { x: { time: true }, packets: { range: fromZero(10) }, bytes: { range: fromZero(1024) } },
      axes: [
        timeAxis(),
        { ...valueAxis((value) => shortNumber(value)), scale: "packets" },
        { ...valueAxis((value) => bytes(value)), scale: "bytes", side: 1, grid: { show: false }, size: rightPx, incrs: BYTE_STEPS },
      ],
      hooks: { setCursor: [(plot) => hovered(plot.cursor.idx ?? null)] },
    },
    dropData(series()),
    parent,
  );
}

function common(parent: HTMLElement): Pick<uPlot.Options, "width" | "height" | "legend" | "cursor"> {
  return {
    width: parent.clientWidth,
    height: parent.clientHeight,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: SYNC }, points: { size: 7 } },
  };
}

function rightPx(plot: uPlot): number {
  return plot.width < NARROW_PX ? 0 : RIGHT_AXIS_PX;
}

/** From 0 to a tenth above the highest value, and at least to `least`, so that noise does not fill the plot. */
function fromZero(least: number): uPlot.Range.Function {
  return (_plot, _min, max) => [0, Math.max(least, (max ?? 0) * 1.1)];
}

function timeAxis(): uPlot.Axis {
  const twoDigits = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return {
    stroke: () => palette().axis,
    font: AXIS_FONT,
    grid: { show: false },
    ticks: { stroke: () => palette().grid, size: 4 },
    size: 26,
    gap: 3,
    space: 76,
    values: (_plot, splits) => splits.map((secs) => twoDigits.format(new Date(secs * 1000))),
    incrs: [60, 120, 300, 600, 900, 1800, 3600, 2 * 3600, 3 * 3600, 6 * 3600],
  };
}

function valueAxis(words: (value: number) => string): uPlot.Axis {
  return {
    stroke: () => palette().axis,
    font: AXIS_FONT,
    grid: { stroke: () => palette().grid, width: 1 },
    ticks: { show: false },
    size: 46,
    gap: 6,
    space: 34,
    values: (plot, splits, axis) => (axis === BYTES_AXIS && rightPx(plot) === 0 ? splits.map(() => "") : splits.map(words)),
  };
}

function shortNumber(value: number): string {
  return value < 10 ? String(Number(value.toFixed(2))) : shortCount(value);
}

function drawAnomalies(plot: uPlot, series: Series): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = palette().anomaly;
  for (const { from, to } of series.anomalies()) {
    const left = Math.max(bbox.left, plot.valToPos(from, "x", true));
    const right = to === null ? bbox.left + bbox.width : Math.min(bbox.left + bbox.width, plot.valToPos(to, "x", true));
    if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
  }
  ctx.restore();
}

function drawBans(plot: uPlot, series: Series): void {
  const { ctx, bbox } = plot;
  const { min, max } = plot.scales["x"] ?? {};
  if (min === undefined || max === undefined || min === null || max === null) return;
  const ratio = devicePixelRatio;
  const secsPerMark = ((max - min) / bbox.width) * MARK_WIDTH_PX * ratio;
  ctx.save();
  ctx.fillStyle = ctx.strokeStyle = palette().ban;
  ctx.font = `600 ${10 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.lineWidth = ratio;
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  for (const { at, count } of series.bans(Math.max(1, secsPerMark))) {
    const x = plot.valToPos(at, "x", true);
    if (x >= bbox.left && x <= bbox.left + bbox.width) drawBan(ctx, x, bbox, count, ratio);
  }
  ctx.restore();
}

/** A dotted line with a triangle at its top, and a number if it stands for several bans. */
function drawBan(ctx: CanvasRenderingContext2D, x: number, bbox: uPlot.BBox, count: number, ratio: number): void {
  const size = 4 * ratio;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top + size);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.beginPath();
  ctx.moveTo(x - size, bbox.top);
  ctx.lineTo(x + size, bbox.top);
  ctx.lineTo(x, bbox.top + size * 1.6);
  ctx.fill();
  if (count > 1) ctx.fillText(shortCount(count), x + 10 * ratio, bbox.top + 9 * ratio);
}
