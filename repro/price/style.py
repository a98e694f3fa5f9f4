"""The look of price.html: light and dark by what the reader's machine prefers, one column on a phone."""

from repro.base.theme import FONT

STYLE = f"""
:root {{ color-scheme: light dark; --page: #fbfbf9; --card: #ffffff; --ink: #1f2630; --soft: #5c6672;
  --line: #e2e4e0; --grid: rgba(30,41,59,.10); --mark: rgba(176,68,26,.16); }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #14181d; --card: #1b2027; --ink: #e4e8ed; --soft: #9aa5b1;
  --line: #2c343d; --grid: rgba(203,213,225,.13); --mark: rgba(224,120,80,.28); }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 {FONT};
  -webkit-text-size-adjust: 100%; }}
main {{ max-width: 960px; margin: 0 auto; padding: 40px 20px 64px; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: .1em 0 .3em; letter-spacing: -.015em; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2.4em 0 .5em; letter-spacing: -.01em; }}
p {{ margin: .5em 0; max-width: 44em; }}
.over {{ font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; color: var(--soft); margin: 0; }}
.soft, figcaption, small {{ color: var(--soft); }}
.card {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; }}
.hero {{ display: grid; grid-template-columns: auto 1fr; gap: 8px 28px; align-items: center; margin-top: 24px; }}
.hero b {{ font-size: 4rem; line-height: 1; letter-spacing: -.04em; font-variant-numeric: tabular-nums; }}
.hero b small {{ font-size: 1.6rem; letter-spacing: 0; margin-left: .1em; }}
.hero p {{ margin: 0; font-size: 1.1rem; }}
.bars {{ grid-column: 1 / -1; display: grid; grid-template-columns: auto 1fr auto; gap: 8px 12px; align-items: center;
  font-size: .88rem; margin-top: 10px; font-variant-numeric: tabular-nums; }}
.bar {{ display: flex; height: 22px; border-radius: 5px; overflow: hidden; background: var(--grid); }}
.bar i {{ display: block; min-width: 0; border-right: 2px solid var(--card); }}
.bar i:last-child {{ border: 0; }}
.key {{ grid-column: 2 / -1; display: flex; flex-wrap: wrap; gap: 2px 18px; color: var(--soft); }}
.key i {{ display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }}
.fit {{ margin: 14px 0 0; padding: 0; list-style: none; font-size: .93rem; }}
.fit li {{ padding-left: 1.5em; text-indent: -1.5em; margin: .25em 0; overflow-wrap: anywhere; }}
.fit li::before {{ content: "·"; display: inline-block; width: 1.5em; text-indent: 0; text-align: center;
  color: var(--soft); font-weight: 700; }}
.fit li.good::before {{ content: "✓"; color: #16a85c; }} .fit li.bad::before {{ content: "!"; color: #d0571f; }}
.scroll {{ overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 7px 12px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }}
tr:last-child td {{ border-bottom: 0; }}
th {{ font-weight: 600; color: var(--soft); font-size: .8rem; vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: var(--card); }}
td small {{ display: block; font-size: .74rem; line-height: 1.2; }}
td .of {{ display: inline-block; height: 7px; border-radius: 3px; vertical-align: middle; margin-right: 8px; }}
.charts {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }}
figure {{ margin: 0; padding: 14px 14px 10px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }}
figcaption {{ font-size: .85rem; font-weight: 600; margin: 0 0 4px 6px; }}
figure > svg {{ width: 100%; height: auto; display: block; }}
svg text {{ fill: var(--soft, currentColor); font: 12px {FONT}; }}
svg .grid {{ stroke: var(--grid, #8884); fill: none; }}
.names {{ list-style: none; display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 6px 6px 0; padding: 0;
  font-size: .83rem; }}
.swatch {{ width: 14px; height: 14px; vertical-align: -2px; margin-right: 5px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 12px; }}
.cards .card {{ padding: 12px 14px; font-size: .9rem; }}
.cards header {{ display: flex; justify-content: space-between; gap: 8px; font-variant-numeric: tabular-nums; }}
.track {{ height: 5px; border-radius: 3px; background: var(--grid); margin: 6px 0 8px; overflow: hidden; }}
.track i {{ display: block; height: 100%; background: #b0441a; }}
q {{ quotes: none; display: block; color: var(--soft); font-size: .84rem; line-height: 1.45; margin: 4px 0;
  overflow-wrap: anywhere; white-space: pre-wrap; }}
mark {{ background: var(--mark); color: var(--ink); border-radius: 3px; padding: 0 2px; }}
details {{ margin-top: 2.5em; font-size: .88rem; color: var(--soft); }}
details dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; overflow-wrap: anywhere; }}
dd {{ margin: 0; }}
code {{ font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }}
@media (max-width: 700px) {{ main {{ padding: 24px 14px 48px; }} h1 {{ font-size: 1.5rem; }}
  .charts, .hero {{ grid-template-columns: minmax(0, 1fr); }} .hero b {{ font-size: 3.2rem; }}
  .card {{ padding: 16px; }} .bars {{ grid-template-columns: auto 1fr; }}
  .bars > span:nth-of-type(2n) {{ display: none; }}
  th, td {{ padding: 6px 9px; }} }}
@media print {{ .card, figure, .scroll {{ break-inside: avoid; }} }}
"""
