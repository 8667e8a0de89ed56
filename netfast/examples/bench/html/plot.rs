//! What all charts with two axes are drawn with.

use std::fmt::Write as _;

use super::{
    chart::{Series, WIDTH, count, open},
    escape,
};

/// Space above the figures.
pub const TOP: f64 = 14.0;

/// A picture with a rectangle of figures, axes and lines. Coordinates are the picture's.
pub struct Plot {
    svg: String,
    /// Left edge of the figures.
    pub left: f64,
    /// Their width.
    pub wide: f64,
    /// Their height.
    pub tall: f64,
}

/// How a point is marked.
pub struct Mark<'a> {
    /// Radius of its circle.
    pub radius: u32,
    /// What fills it.
    pub fill: &'a str,
    /// Whether it has a rim of its line's colour.
    pub rim: bool,
    /// Its figure, with the unit if it has one.
    pub says: String,
}

impl Plot {
    /// A picture of such a height, with so much space at the left, right and bottom.
    pub fn new(height: f64, left: f64, right: f64, bottom: f64) -> Self {
        Self { svg: open(height), left, wide: WIDTH - left - right, tall: height - TOP - bottom }
    }

    /// The lower edge of the figures.
    pub fn bottom(&self) -> f64 {
        TOP + self.tall
    }

    /// A band from a height down to the bottom, and what it means.
    pub fn band(&mut self, from: f64, name: &str) {
        let Self { left, wide, .. } = *self;
        let bottom = self.bottom();
        let _ = write!(
            self.svg,
            "<rect class=\"band\" x=\"{left}\" y=\"{from:.1}\" width=\"{wide}\" height=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            bottom - from,
            left + 8.0,
            bottom - 8.0,
            escape(name)
        );
    }

    /// A line of the grid at a height, and the value there.
    pub fn row(&mut self, at: f64, value: &str) {
        let Self { left, wide, .. } = *self;
        let _ = write!(
            self.svg,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            left + wide,
            left - 8.0,
            at + 4.0
        );
    }

    /// The x of all points below the figures, `grid`: each with a line of the grid.
    pub fn columns(&mut self, series: &[Series], at: impl Fn(f64) -> f64, grid: bool) {
        let bottom = self.bottom();
        let mut values: Vec<f64> = points(series).map(|(x, _)| x).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        for x in values {
            let (at, x) = (at(x), count(x));
            if grid {
                let _ = write!(
                    self.svg,
                    "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/>"
                );
            }
            let _ = write!(
                self.svg,
                "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>",
                bottom + 18.0
            );
        }
    }

    /// The names of both axes.
    pub fn names(&mut self, x: &str, y: &str) {
        let middle = TOP + self.tall / 2.0;
        let _ = write!(
            self.svg,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>\
             <text class=\"axis\" x=\"14\" y=\"{middle:.1}\" transform=\"rotate(-90 14 {middle:.1})\" text-anchor=\"middle\">{y}</text>",
            self.left + self.wide / 2.0,
            self.bottom() + 40.0
        );
    }

    /// A line, and its points as they are to be marked.
    pub fn line<'a>(
        &mut self,
        line: &'a Series,
        at: impl Fn((f64, f64)) -> (f64, f64),
        mark: impl Fn(f64) -> Mark<'a>,
    ) {
        let colour = line.colour;
        let path: Vec<String> = line
            .points
            .iter()
            .map(|point| {
                let (x, y) = at(*point);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ =
            write!(self.svg, "<polyline class=\"line\" stroke=\"{colour}\" points=\"{}\"/>", path.join(" "));
        for point in &line.points {
            let (x, y) = at(*point);
            let Mark { radius, fill, rim, says } = mark(point.1);
            let rim = if rim { format!(" stroke=\"{colour}\"") } else { String::new() };
            let _ = write!(
                self.svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{fill}\"{rim}><title>{}: {says} at {}</title></circle>",
                escape(&line.name),
                count(point.0)
            );
        }
    }

    /// The lines' names beside their ends, moved apart.
    pub fn ends(&mut self, series: &[Series], at: impl Fn((f64, f64)) -> (f64, f64)) {
        let mut ends: Vec<(f64, f64, &Series)> = series
            .iter()
            .filter_map(|line| {
                let (x, y) = at(*line.points.last()?);
                Some((x, y, line))
            })
            .collect();
        ends.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut free = TOP;
        for (x, y, line) in ends {
            let y = y.max(free);
            free = y + 16.0;
            let _ = write!(
                self.svg,
                "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{}\">{}</text>",
                x + 10.0,
                y + 4.0,
                line.colour,
                escape(&line.name)
            );
        }
    }

    /// The picture.
    pub fn finish(self) -> String {
        self.svg + "</svg>"
    }
}

/// The points of all lines.
pub fn points(series: &[Series]) -> impl Iterator<Item = (f64, f64)> {
    series.iter().flat_map(|line| line.points.iter().copied())
}
