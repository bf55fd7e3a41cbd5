"""The style sheet of the page: system fonts, two colour schemes, print."""

SERIES = 7
"""How many series have a colour and a marker of their own before both start again."""

_LIGHT = """--bg:#fff;--fg:#1b1f24;--soft:#59636e;--line:#d4dae0;--panel:#f5f7f9;--front:#f3d98b;--accent:#0b5cad;
--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#aa4499;--s4:#b8860b;--s5:#56a5d8;--s6:#555;--warn:#fff6df;--warnline:#c98a00;
--p0:#cfd8e3;--p1:#b9a3d6;--p2:#8dbfe3;--p3:#3d85b8;--p4:#e8b76a;--p5:#9bd3ae;--p6:#bdbdbd;--inseg:#10202e"""
_DARK = """--bg:#14181d;--fg:#e6eaee;--soft:#9aa6b2;--line:#39424c;--panel:#1c2229;--front:#6b5a22;--accent:#7db8f0;
--s0:#56a8e8;--s1:#ff8a3d;--s2:#2fc79b;--s3:#dd88cc;--s4:#e6b422;--s5:#9fd0f2;--s6:#b8b8b8;--warn:#2c2614;--warnline:#c98a00;
--p0:#566373;--p1:#8a72ad;--p2:#3f7fae;--p3:#2b5f88;--p4:#a87a32;--p5:#4d8f65;--p6:#6d6d6d;--inseg:#f4f7fa"""

CSS = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}}
main,header,footer{{max-width:1288px;margin:0 auto;padding:0 24px}}
header{{padding-top:40px}}
h1{{font-size:1.05rem;font-weight:600;color:var(--soft);margin:0}}
.question{{color:var(--soft);margin:.1rem 0 0}}
.headline{{font-size:1.6rem;line-height:1.3;font-weight:600;letter-spacing:-.01em;margin:1rem 0 .8rem;
max-width:34em;text-wrap:pretty}}
.meta{{color:var(--soft);font-size:.88rem;margin:0;max-width:none}}
h2{{font-size:1.25rem;margin:2.8rem 0 .4rem;padding-top:1.1rem;border-top:1px solid var(--line);line-height:1.3}}
h3{{font-size:1rem;margin:1.8rem 0 .3rem}}
p{{margin:.4rem 0 .8rem;max-width:46em}}
a{{color:var(--accent)}}
ul{{padding-left:1.2em;margin:.4rem 0;max-width:46em}} li{{margin:.25rem 0}}
code,.mono{{font:.86em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}}
pre{{background:var(--panel);padding:12px 14px;overflow-x:auto;border-radius:6px;margin:.5rem 0}}
.answer{{font-size:1.08rem;font-weight:600;max-width:44em}}
.warn{{background:var(--warn);border-left:4px solid var(--warnline);padding:10px 16px;border-radius:0 6px 6px 0;
margin:1.2rem 0}}
.warn h2,.warn h3{{border:0;margin:0;padding:0;font-size:1rem}}
.box{{background:var(--panel);padding:4px 18px 12px;border-radius:8px;margin:1rem 0}}
.box h3{{margin-top:.8rem}}
dt{{font-weight:600;margin-top:.6rem}} dd{{margin:0;max-width:46em}}
figure{{margin:1rem 0 0}} figure .wide{{max-width:1080px}} figure .narrow{{max-width:560px}}
figcaption{{color:var(--soft);font-size:.88rem;max-width:56em;margin-top:.3rem}}
.panels{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:10px 28px}}
.panels figure{{max-width:420px}} .panels figcaption{{color:var(--fg);font-weight:600}}
.examples{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:14px}}
.examples{{margin:.8rem 0 1.4rem}} .examples figure{{margin:0}}
.examples img{{display:block;max-width:100%;height:auto}}
.scroll{{overflow-x:auto;margin:.8rem 0;-webkit-overflow-scrolling:touch}}
.scroll:focus-visible{{outline:2px solid var(--accent);outline-offset:2px}}
table{{border-collapse:collapse;font-size:.86rem;line-height:1.4;font-variant-numeric:tabular-nums;min-width:100%}}
caption{{text-align:left;color:var(--soft);font-size:.88rem;padding:0 0 .4rem;caption-side:top}}
caption span{{display:block;position:sticky;left:0;width:fit-content;max-width:calc(100vw - 34px)}}
th,td{{text-align:left;vertical-align:top;padding:6px 13px 6px 0;border-bottom:1px solid var(--line)}}
thead th{{font-weight:600;color:var(--soft);vertical-align:bottom;border-bottom:1.5px solid var(--soft)}}
tbody th{{font-weight:600;white-space:nowrap}}
.n{{text-align:right;white-space:nowrap}}
small,.sub{{color:var(--soft);font-size:.92em;overflow-wrap:anywhere}}
.sub{{display:block;font-weight:400;white-space:nowrap}}
td.v .sub{{white-space:normal}} td.v{{min-width:14.5em}} td.w{{min-width:8em}}
tr.front th:first-child::before{{content:"\\25C6\\00A0"}}
tr.best td.s{{font-weight:700}}
.k0{{--c:var(--s0)}}.k1{{--c:var(--s1)}}.k2{{--c:var(--s2)}}.k3{{--c:var(--s3)}}.k4{{--c:var(--s4)}}.k5{{--c:var(--s5)}}.k6{{--c:var(--s6)}}
svg{{display:block;width:100%;height:auto;font:13px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}}
svg text{{fill:var(--fg)}} svg .t{{fill:var(--soft)}}
svg .grid{{stroke:var(--line);stroke-width:1}} svg .axis{{stroke:var(--soft);stroke-width:1}}
svg .floor{{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:5 4}} svg .band{{fill:var(--soft);opacity:.12}}
svg .between{{fill:var(--front);opacity:.45}} td.best{{font-weight:700}}
svg .envelope{{fill:none;stroke:var(--front);stroke-width:9;stroke-linejoin:round;stroke-linecap:round}}
svg .curve{{fill:none;stroke:var(--c);stroke-width:2}} svg .err{{stroke:var(--c);stroke-width:1.5}}
svg .mark{{fill:var(--c);stroke:var(--bg);stroke-width:1.5}}
svg .open .mark{{fill:var(--bg);stroke:var(--c);stroke-width:2}}
svg .ring{{fill:none;stroke:var(--fg);stroke-width:1.3}}
svg .lead{{stroke:var(--c);stroke-width:1;stroke-dasharray:1 3}}
svg .cross{{stroke:var(--soft);stroke-width:1.2;fill:none}}
.seg0{{fill:var(--p0)}}.seg1{{fill:var(--p1)}}.seg2{{fill:var(--p2)}}.seg3{{fill:var(--p3)}}.seg4{{fill:var(--p4)}}.seg5{{fill:var(--p5)}}
.seg6{{fill:var(--p6)}} svg .in{{fill:var(--inseg);font-size:12px}} svg .seg3t{{fill:#fff;font-size:12px}}
.narrow{{display:none}}
footer{{color:var(--soft);font-size:.85rem;padding-top:2rem;padding-bottom:3rem}}
@media (max-width:799px){{
main,header,footer{{padding-left:16px;padding-right:16px}} header{{padding-top:24px}}
.headline{{font-size:1.25rem}} figure .wide{{display:none}} figure .narrow{{display:block}}
.box{{padding:2px 12px 10px}} tbody th .sub{{white-space:normal;min-width:8.5em}}
}}
@media print{{
:root{{color-scheme:light;{_LIGHT}}} body{{font-size:10pt}} main,header,footer{{max-width:none;padding:0}}
table{{font-size:7.5pt}} th,td{{padding:3px 6px 3px 0}} .scroll{{overflow:visible}} td.v{{min-width:11em}}
figure .wide{{display:block;max-width:none}} figure .narrow{{display:none}}
figure,tr,.box,.warn{{break-inside:avoid}}
.panels{{grid-template-columns:repeat(2,1fr)}} h2,h3{{break-after:avoid}} pre{{white-space:pre-wrap}}
}}
"""
