// How every part of Shield stands, as a state with its reason.

import type { DetectorStatus, Part, PartState, Status } from "../api/types";
import { byId, h, icon, Keyed, setAttribute, setText, type IconName } from "../dom";
import { partName, span } from "../format";

/** What needs a person comes first, what is switched off last. */
const STATES: Record<PartState, { words: string; icon: IconName; rank: number }> = {
  degraded: { words: "degraded", icon: "warn", rank: 0 },
  waiting: { words: "waits", icon: "wait", rank: 1 },
  active: { words: "works", icon: "check", rank: 1 },
  off: { words: "off", icon: "off", rank: 2 },
};

export function startHealth(): (status: Status) => void {
  const parts = new Keyed<Part, PartView>(
    byId("parts"),
    (part) => `${part.part} ${part.state}`,
    (part) => new PartView(part),
  );
  return (status) => {
    const all = [detector(status.detector), ...status.parts.filter((part) => part.part !== "detector")];
    parts.update(all.toSorted((a, b) => STATES[a.state].rank - STATES[b.state].rank));
    const working = all.filter((part) => part.state === "active").length;
    const on = all.filter((part) => part.state !== "off").length;
    setText(byId("health-note"), `${working} of ${on} work`);
  };
}

/** The detector is no part that can break, but it can be in a state that a person should know. */
function detector(it: DetectorStatus): Part {
  const part = (state: PartState, text: string): Part => ({ part: "detector", state, text });
  if (it.blast_radius !== null) return part("degraded", `banning is stopped: ${it.blast_radius}`);
  if (it.warm_up !== null) return part("waiting", `still learning, ${span(it.warm_up.remaining_secs)} left`);
  if (it.frozen) return part("active", "baseline frozen while traffic is unusual");
  return part("active", `profile ${it.profile}, ${it.reference} reference, learned`);
}

class PartView {
  readonly elements: Element[];
  private readonly text = h("p", { class: "part-text" });

  constructor(part: Part) {
    const state = STATES[part.state];
    const head = h("p", { class: "part-head" }, h("span", { class: "part-name" }, partName(part.part)), h("span", { class: "part-state" }, state.words));
    this.elements = [h("li", { class: "part", "data-state": part.state }, icon(state.icon), h("div", {}, head, this.text))];
  }

  update(part: Part): void {
    setText(this.text, part.text);
    setAttribute(this.text, "title", part.text);
  }
}
