//! How the page looks on a screen and on paper.

/// The page's only style sheet. On paper: black on white, pictures and their headings together.
pub(super) const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#d8dde4;--paper:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--line:#39424f;--paper:#151a21}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);\
max-width:72rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--line);padding-top:1rem}\
h2 small,h3 small{color:var(--soft);font-weight:400}h3{font-size:1rem;margin:1.2rem 0 .3rem}\
pre{white-space:pre-wrap;color:var(--soft);font-size:.85rem}p.note{color:var(--soft);font-size:.85rem;margin:.2rem 0}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;white-space:nowrap}\
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line)}\
th:first-child,td:first-child,th.text,td.text{text-align:left}\
table.matrix td{min-width:3.5rem}\
svg{max-width:100%;height:auto;display:block;margin:.3rem 0}svg text{fill:var(--ink);font:12px system-ui,sans-serif}\
svg text.in{font-size:11px}svg .axis{stroke:var(--soft);stroke-width:1}svg .grid{stroke:var(--line);stroke-width:1}\
svg.defs{position:absolute;width:0;height:0}\
.row{display:flex;flex-wrap:wrap;gap:.5rem 2rem}figure{margin:0;break-inside:avoid}figcaption{font-size:.85rem}\
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem}.key span{display:inline-flex;align-items:center}\
.key svg{display:inline-block;margin:0 .4em 0 0;flex:none}\
li{font-size:.9rem;overflow-wrap:anywhere}\
@page{margin:14mm}\
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#bbb;--paper:#fff}\
body{max-width:none;margin:0;padding:0;font-size:10pt}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}\
h2,h3{break-after:avoid}svg,tr{break-inside:avoid}.wide{overflow:visible}\
table{font-size:7pt}th,td{padding:.15rem .35rem}}";
