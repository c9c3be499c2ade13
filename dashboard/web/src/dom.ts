// Creates all elements. Text goes in as text nodes only, because paths and user agents come from attackers; the browser
// refuses markup as well (Trusted Types without a policy).

type Child = Node | string | null;
type Attributes = Record<string, string | number | boolean | null | ((event: Event) => void)>;

/** An element with attributes (functions become listeners, `true` an empty attribute, `false` and null none) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  apply(element, attributes, children);
  return element;
}

/** The same for SVG. */
export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  apply(element, attributes, children);
  return element;
}

function apply(element: Element, attributes: Attributes, children: Child[]): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null));
}

/** The element of the static page with this id. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`index.html has no #${id}`);
  return element as T;
}

/** Sets text only when it changed, so that screen readers and selections are left in peace. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute only when it changed; null removes it. */
export function setAttribute(element: Element, name: string, value: string | null): void {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Makes `children` the children of `parent`, in this order. Moves as few as possible: a moved element loses focus. */
export function arrange(parent: Element, children: Element[]): void {
  const wanted = new Set<Element>(children);
  for (const child of [...parent.children]) {
    if (!wanted.has(child)) child.remove();
  }
  let at = parent.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}

/** A list of views by key. A view is updated rather than made anew, so that focus, selections and open details survive. */
export class Keyed<Item, View extends { elements: Element[]; update(item: Item): void }> {
  private views = new Map<string, View>();

  constructor(
    private readonly parent: Element,
    private readonly keyOf: (item: Item) => string,
    private readonly make: (item: Item) => View,
  ) {}

  update(items: Item[]): void {
    const next = new Map<string, View>();
    for (const item of items) {
      const key = this.keyOf(item);
      const view = this.views.get(key) ?? this.make(item);
      view.update(item);
      next.set(key, view);
    }
    this.views = next;
    arrange(this.parent, [...next.values()].flatMap((view) => view.elements));
  }

  get size(): number {
    return this.views.size;
  }

  get all(): Iterable<View> {
    return this.views.values();
  }
}

const ICONS = {
  shield: "M12 2 20 5v6.5c0 5-3.4 8.6-8 10.5-4.6-1.9-8-5.5-8-10.5V5z",
  check: "M5 12.5 10 17.5 19 7",
  wait: "M12 7v5l3.5 2M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  warn: "M12 9v4.5M12 17v.01M10.3 4.2 2.9 17.5A2 2 0 0 0 4.6 20.5H19.4A2 2 0 0 0 21.1 17.5L13.7 4.2A2 2 0 0 0 10.3 4.2z",
  off: "M6 12h12",
  ban: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM5.8 5.8l12.4 12.4",
  spike: "M3 17h4l3-11 4 13 3-8h4",
  info: "M12 11v5M12 8v.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  chevron: "m9 6 6 6-6 6",
} as const;

export type IconName = keyof typeof ICONS;

/** A line icon; always beside words, so it is hidden from screen readers. */
export function icon(name: IconName): SVGElement {
  return svg(
    "svg",
    { class: `icon icon-${name}`, viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: ICONS[name] }),
  );
}
