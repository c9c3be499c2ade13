// Bundles the page into dist/. Run by `cargo xtask build` after `npm ci`; nothing is fetched from anywhere.
import { createHash } from "node:crypto";
import { copyFile, readFile, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

// The oldest browsers that know everything the page uses (`light-dark()` is the youngest of it).
const target = ["chrome123", "firefox125", "safari17.5"];

const notice = "/*! Shield's live page. Contains uPlot (c) Leon Sorokin, MIT licence. */";

await build({
  entryPoints: { app: "src/main.ts" },
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "iife",
  target,
  banner: { js: notice },
  logLevel: "warning",
});
const styles = await build({
  entryPoints: { app: "src/styles/app.css" },
  outdir: "dist",
  bundle: true,
  minify: true,
  target,
  write: false,
  logLevel: "warning",
});
// Within the page: a file of its own is a round trip before the first paint. The policy allows this one text by its hash, which
// stands beside it for whoever sends the policy.
const [{ text }] = styles.outputFiles;
const hash = `sha256-${createHash("sha256").update(text).digest("base64")}`;
const LINK = '<link rel="stylesheet" href="app.css">';
const page = await readFile("src/index.html", "utf8");
if (!page.includes(LINK)) throw new Error(`src/index.html has no ${LINK}`);
await writeFile("dist/index.html", page.replace(LINK, () => `<style data-hash="${hash}">${text}</style>`));
await rm("dist/app.css", { force: true });
await copyFile("src/favicon.svg", "dist/favicon.svg");
