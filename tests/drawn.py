"""Whether a reader sees a figure: its box has area, it has traces, and its pixels are not one colour."""

import base64

MARKED = """async picture => {
  const image = new Image();
  image.src = `data:image/png;base64,${picture}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const { data } = canvas.getImageData(0, 0, image.width, image.height);
  const counts = new Map();
  for (const pixel of new Uint32Array(data.buffer)) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  return 1 - Math.max(...counts.values()) / (image.width * image.height);
}"""
LEAST = 0.005  # share of pixels off the background: axes and their labels alone are more


def undrawn(page, figures: str = ".js-plotly-plot") -> list[str]:
    """Complaints about the plotly figures of a page that a reader would not see, each scrolled into view."""
    complaints = []
    for i, figure in enumerate(page.locator(figures).all()):
        figure.scroll_into_view_if_needed()
        width, height, traces = figure.evaluate("f => [f.offsetWidth, f.offsetHeight, f.data?.length ?? 0]")
        if not traces:
            complaints.append(f"figure {i} has no trace")
        if min(width, height) < 100:
            complaints.append(f"figure {i} has a box of {width} x {height} px")
        elif (marked := page.evaluate(MARKED, base64.b64encode(figure.screenshot()).decode())) < LEAST:
            complaints.append(f"figure {i} is blank: {marked:.2%} of its pixels differ from the rest")
    return complaints
