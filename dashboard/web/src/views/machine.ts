// CPU, memory and uptime of the host and of the agent.

import type { Status } from "../api/types";
import { byId, h, setAttribute, setText } from "../dom";
import { bytes, count, fullTime, percent, plural, span } from "../format";

interface Gauge {
  show(text: string, share: number): void;
}

export function startMachine(): (status: Status) => void {
  const parent = byId("machine");
  const host = group(parent, "Host");
  const agent = group(parent, "Agent");
  const gauges = {
    hostCpu: gauge(host, "CPU"),
    hostMemory: gauge(host, "Memory"),
    agentCpu: gauge(agent, "CPU"),
    agentMemory: gauge(agent, "Memory"),
  };
  const hostUp = pair(host, "Uptime");
  const load = pair(host, "Load, 1 min");
  const agentUp = pair(agent, "Uptime");
  const lines = pair(agent, "Lines rejected");
  return ({ host: machine, agent: process, totals, started_ms: startedMs }) => {
    setText(byId("machine-note"), plural(machine.cores, "core", "cores"));
    gauges.hostCpu.show(percent(machine.cpu_percent), machine.cpu_percent / 100);
    gauges.hostMemory.show(`${bytes(machine.memory_used_bytes)} of ${bytes(machine.memory_total_bytes)}`, machine.memory_used_bytes / machine.memory_total_bytes);
    gauges.agentCpu.show(`${percent(process.cpu_percent)} of a core`, process.cpu_percent / 100);
    gauges.agentMemory.show(bytes(process.memory_bytes), process.memory_bytes / machine.memory_total_bytes);
    setText(hostUp, span(machine.uptime_secs));
    setText(load, machine.load_1min.toFixed(2));
    setText(agentUp, span(process.uptime_secs));
    setAttribute(agentUp, "title", `since ${fullTime(startedMs)}`);
    setText(lines, `${count(totals.rejected)} of ${count(totals.requests + totals.rejected)}`);
  };
}

function group(parent: Element, title: string): Element {
  const list = h("dl", { class: "pairs" });
  parent.append(h("div", {}, h("h3", { class: "minor" }, title), list));
  return list;
}

function pair(parent: Element, name: string): Element {
  const value = h("dd", {}, "–");
  parent.append(h("div", {}, h("dt", {}, name), value));
  return value;
}

function gauge(parent: Element, name: string): Gauge {
  const value = h("dd", {}, "–");
  const fill = h("span", { class: "gauge-fill" });
  parent.append(h("div", { class: "gauge" }, h("dt", {}, name), value, h("dd", { class: "gauge-bar", "aria-hidden": "true" }, fill)));
  return {
    show(text, share) {
      setText(value, text);
      fill.style.width = `${Math.min(100, Math.max(0, 100 * share)).toFixed(1)}%`;
    },
  };
}
