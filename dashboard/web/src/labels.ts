// The display names that the agent gives to rules, baseline sources and enforcers.

import { api } from "./api/client";
import type { Labels } from "./api/types";

let labels: Labels | null = null;

/** Fetches the names unless they are here: they are constant for one version of the agent. True if they are new. */
export async function loadLabels(): Promise<boolean> {
  if (labels !== null) return false;
  labels = await api.labels();
  return true;
}

/** Rules with their display names, in the order of the names. */
export function ruleLabels(): [rule: string, label: string][] {
  return Object.entries(labels?.rules ?? {}).toSorted(([, a], [, b]) => a.localeCompare(b));
}

// A name without a label stands for itself: until the labels are here, and in an agent that is newer than the page.

export const ruleLabel = (rule: string): string => labels?.rules[rule] ?? rule;
export const sourceLabel = (source: string): string => labels?.baseline_sources[source] ?? source;
export const enforcerLabel = (enforcer: string): string => labels?.enforcers[enforcer] ?? enforcer;
