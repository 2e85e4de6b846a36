"""The report page's style sheet: system fonts, light and dark, readable on a phone and on paper."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--page:#f4f5f7;--ink:#1f2430;--soft:#667085;--line:#e4e7ec;--accent:#2f6fde}
@media (prefers-color-scheme:dark){:root{--paper:#1b1f27;--page:#12151b;--ink:#e8eaf0;--soft:#98a2b3;--line:#2d3340}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 48px}
header{border-left:5px solid var(--accent);padding-left:16px;margin-bottom:24px}
h1{font-size:27px;line-height:1.2;margin:0 0 4px}
h2{font-size:17px;margin:0 0 12px}
h3,h4,h5{font-size:15px;margin:14px 0 4px}
.lead{color:var(--soft);margin:0}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:16px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.tile{background:var(--paper);
  border:1px solid var(--line);border-radius:10px;padding:12px 16px;display:flex;flex-direction:column}
.tile .name{color:var(--soft);font-size:13px}
.tile .value{font-size:25px;font-weight:650;font-variant-numeric:tabular-nums}
.tile .remark{color:var(--soft);font-size:12px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:600;font-size:13px;text-align:left;
  border-bottom:2px solid var(--line);padding:4px 12px 6px 0}
td{border-bottom:1px solid var(--line);padding:6px 12px 6px 0;vertical-align:middle}
tr:last-child td{border-bottom:0}
td.n{white-space:nowrap}
.swatch{display:inline-block;width:12px;height:12px;
  border-radius:3px;border:1px solid var(--line);margin-right:8px;vertical-align:-1px}
.bar{display:inline-block;width:110px;height:7px;border-radius:4px;background:var(--line);margin-left:10px;vertical-align:1px}
.bar i{display:block;height:100%;border-radius:4px;background:var(--accent)}
.note{color:var(--soft);font-size:13px;margin:10px 0}
.plates,.charts{display:flex;flex-wrap:wrap;gap:18px;align-items:flex-start}
figure{margin:0;max-width:100%}
figure img,figure svg{max-width:100%;height:auto;border-radius:6px;border:1px solid var(--line);display:block}
img.z2{image-rendering:pixelated}
figcaption{color:var(--soft);font-size:13px;margin-top:4px}
pre,code{font-family:ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;font-size:13px}
pre{background:var(--page);border:1px solid var(--line);border-radius:6px;padding:8px 12px;overflow-x:auto;margin:4px 0}
code{background:var(--page);border-radius:4px;padding:1px 4px}
dl{margin:0}dt{margin-top:10px}dd{margin:0}
footer{color:var(--soft);font-size:12px;margin-top:24px}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
