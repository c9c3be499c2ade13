// The row of large figures: the present second.

import { byId, h, setAttribute, setText } from "../dom";
import { bytes, count, percent, plural, rate, shortCount, sigmas, span } from "../format";
import type { Baseline, DetectorStatus, Status } from "../api/types";

/** A rate this many standard deviations above the mean is highlighted. Bans follow the detector's own thresholds. */
const UNUSUAL_SIGMAS = 2;

type Tone = "calm" | "alert" | "warm";

interface Figure {
  show(value: string, unit: string, note: string, tone?: Tone): void;
}

export function startFigures(): (status: Status) => void {
  const parent = byId("figures");
  const figures = {
    rate: figure(parent, "Requests"),
    errors: figure(parent, "Errors"),
    banned: figure(parent, "Banned"),
    dropped: figure(parent, "Dropped"),
    clients: figure(parent, "Clients watched"),
  };
  return (status) => {
    showRate(figures.rate, status);
    showErrors(figures.errors, status);
    showBanned(figures.banned, status);
    showDropped(figures.dropped, status);
    showClients(figures.clients, status);
  };
}

function figure(parent: Element, title: string): Figure {
  const value = h("span", { class: "figure-value" }, "–");
  const unit = h("span", { class: "figure-unit" });
  const note = h("p", { class: "figure-note" });
  const box = h("div", { class: "figure" }, h("h2", {}, title), h("p", { class: "figure-line" }, value, " ", unit), note);
  parent.append(box);
  return {
    show(text, unitText, noteText, tone = "calm") {
      setText(value, text);
      setText(unit, unitText);
      setText(note, noteText);
      setAttribute(box, "data-tone", tone);
    },
  };
}

function showRate(figure: Figure, { global, baseline, detector }: Status): void {
  const away = (global.rate - baseline.mean) / baseline.stddev;
  const learned = hasLearned(baseline, detector);
  const note = learned ? `${sigmas(away)} σ from ${rate(baseline.mean)} ± ${rate(baseline.stddev)}` : "no baseline learned yet";
  const unusual = learned && away > UNUSUAL_SIGMAS;
  figure.show(rate(global.rate), "req/s", note, global.anomaly !== null ? "alert" : unusual ? "warm" : "calm");
}

function hasLearned(baseline: Baseline, detector: DetectorStatus): boolean {
  return detector.warm_up === null && baseline.source !== "floor";
}

function showErrors(figure: Figure, { global, baseline, detector }: Status): void {
  const usual = hasLearned(baseline, detector) ? [`usual ${rate(baseline.error_mean)}`] : [];
  const share = global.rate > 0 ? [`${percent((100 * global.error_rate) / global.rate)} of requests`] : [];
  figure.show(rate(global.error_rate), "per s", [...usual, ...share].join(" · ") || "no requests");
}

function showBanned(figure: Figure, { bans, slowed, totals }: Status): void {
  const lane = slowed !== undefined && slowed.active > 0 ? ` · ${count(slowed.active)} slowed` : "";
  const note = `${count(bans.permanent)} permanent · ${shortCount(totals.bans)} in all${lane}`;
  figure.show(count(bans.active), bans.active === 1 ? "client" : "clients", note);
}

function showDropped(figure: Figure, { dropped }: Status): void {
  const note = `${bytes(dropped.bytes_per_sec)}/s · ${shortCount(dropped.packets)} packets since start`;
  figure.show(rate(dropped.packets_per_sec), "packets/s", note, dropped.packets_per_sec > 0 ? "alert" : "calm");
}

function showClients(figure: Figure, { detector }: Status): void {
  const full = detector.clients >= detector.max_clients;
  const note = full
    ? `table full, ${plural(detector.evicted, "client", "clients")} evicted`
    : detector.warm_up === null
      ? `room for ${shortCount(detector.max_clients)}`
      : `learning, ${span(detector.warm_up.remaining_secs)} left`;
  figure.show(count(detector.clients), "in 60 s", note, full ? "warm" : "calm");
}
