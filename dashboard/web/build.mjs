// Bundles the page into dist/. Run by `cargo xtask build` after `npm ci`; nothing is fetched from anywhere.
import { build } from "esbuild";
import { copyFile } from "node:fs/promises";

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
await build({
  entryPoints: { app: "src/styles/app.css" },
  outdir: "dist",
  bundle: true,
  minify: true,
  target,
  logLevel: "warning",
});
await copyFile("src/index.html", "dist/index.html");
await copyFile("src/favicon.svg", "dist/favicon.svg");
