// Draw every picture from an SVG with embedded fonts: an SVG shown as an image cannot use the page's.
{
  const STYLE = "<style>@FACES@</style>";
  const HEAD = "data:image/svg+xml,";
  const draw = Plotly.toImage;

  const withFonts = (svg) => svg.replace(/<svg[^>]*>/, (tag) => tag + STYLE);

  const pixels = async (svg, { width, height, scale }) => {
    const image = new Image();
    image.src = HEAD + encodeURIComponent(svg);
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/png").split(",")[1];
  };

  Plotly.toImage = async (figure, options) => {
    const asked = { ...options, format: "svg", scale: 1, imageDataOnly: true };
    const svg = withFonts(await draw(figure, asked));
    if (options.format === "png") return pixels(svg, options);
    return options.imageDataOnly ? svg : HEAD + encodeURIComponent(svg);
  };
}
