// The colour scheme: dark, light or the system's. The choice is kept on this device; the colours are in tokens.css.

const KEY = "shield-theme";
const CHOICES = ["system", "dark", "light"] as const;
type Choice = (typeof CHOICES)[number];

const LABELS: Record<Choice, string> = { system: "Auto", dark: "Dark", light: "Light" };

/** Wires the switch; calls `changed` after each change of the colours. */
export function startTheme(button: HTMLElement, changed: () => void): void {
  let choice = CHOICES.find((known) => known === localStorage.getItem(KEY)) ?? "system";
  const show = (): void => {
    document.documentElement.dataset["theme"] = choice;
    button.textContent = LABELS[choice];
    button.setAttribute("aria-label", `Colours: ${LABELS[choice]}. Change.`);
    changed();
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length] ?? "system";
    localStorage.setItem(KEY, choice);
    show();
  });
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", changed);
  show();
}

/** A colour of tokens.css with `light-dark()` resolved, which a canvas does not understand. */
export function colour(token: string): string {
  const probe = document.createElement("i");
  probe.className = "visually-hidden";
  probe.style.color = `var(--${token})`;
  // A plot of one colour would be no plot: with the user's own colours the tokens say which of them take his.
  probe.style.setProperty("forced-color-adjust", "none");
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
