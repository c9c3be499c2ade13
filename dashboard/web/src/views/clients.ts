// The clients with the highest rates over the window, beside the level of a normal client.

import type { ClientActivity, ClientList } from "../api/types";
import { byId, h, icon, Keyed, setAttribute, setText } from "../dom";
import { count, rate, sigmas } from "../format";

let isDry = false;

export function startClients(explain: (client: string) => void): (list: ClientList, dry: boolean) => void {
  const rows = new Keyed<ClientActivity, ClientRow>(
    byId("clients-rows"),
    (client) => client.client,
    (client) => new ClientRow(client.client, explain),
  );
  return (list, dry) => {
    isDry = dry;
    rows.update(list.clients);
    setText(byId("clients-note"), `over ${list.window_secs} s`);
    const empty = byId("clients-empty");
    empty.hidden = list.clients.length > 0;
    setText(empty, `No requests in the last ${list.window_secs} seconds.`);
  };
}

class ClientRow {
  readonly elements: Element[];
  private readonly rate = h("td", { class: "number", role: "cell", "data-label": "Rate" });
  private readonly errors = h("td", { class: "number", role: "cell", "data-label": "Errors" });
  private readonly zScore = h("td", { class: "number", role: "cell", "data-label": "Z-score" });
  private readonly badge = h("span", { class: "badge" });

  constructor(client: string, explain: (client: string) => void) {
    const button = h("button", { type: "button", class: "plain", "aria-label": `Explain ${client}`, title: "Explain this client", click: () => explain(client) }, icon("info"));
    this.elements = [
      h("tr", { role: "row" }, h("td", { role: "cell", class: "client-cell" }, h("span", { class: "opener-line" }, h("span", { class: "address" }, client), button)), this.rate, this.errors, this.zScore, h("td", { role: "cell", class: "state-cell" }, this.badge)),
    ];
  }

  update(client: ClientActivity): void {
    setText(this.rate, rate(client.rate));
    setText(this.errors, client.errors === 0 ? "0" : `${count(client.errors)} of ${count(client.requests)}`);
    setText(this.zScore, sigmas(client.z_score));
    setText(this.badge, client.state === "banned" && isDry ? "would be banned" : client.state);
    setAttribute(this.badge, "data-state", client.state);
  }
}
