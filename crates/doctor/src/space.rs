//! The preprocessings that training scripts are known to use, as the products of their parts.

use headswap_spec::{ChannelOrder, Framework, Preprocessing, Preset, Resize, ResizeFilter, ValueRange};

/// How a picture gets its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// Stretched to the size, whatever its proportions.
    Stretch,
    /// Its shorter side is resized to 8/7 of the size, and the middle kept (torchvision's `Resize(256)`, `CenterCrop(224)`).
    ShortSideCrop,
    /// Its shorter side is resized to the size, and the middle kept (`Resize(224)`, `CenterCrop(224)`).
    ShortSideFit,
    /// Stretched to 8/7 of the size, and the middle kept (`Resize((256, 256))`, `CenterCrop(224)`).
    StretchCrop,
}

/// What becomes of the values, and the order of the channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour {
    /// A name for people.
    pub name: &'static str,
    /// The order.
    pub channels: ChannelOrder,
    /// The values.
    pub values: ValueRange,
    /// How usual it is, in any unit.
    usual: f64,
}

/// One way of preparing pictures, by the indices of its parts in a [`Space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recipe {
    /// In [`Space::sizes`].
    pub size: usize,
    /// In [`Space::geometries`].
    pub geometry: usize,
    /// In [`Space::filters`].
    pub filter: usize,
    /// In [`Space::colours`].
    pub colour: usize,
}

/// Candidates for each part, the likeliest first.
#[derive(Clone, Debug)]
pub struct Space {
    /// Heights and widths.
    pub sizes: Vec<([u32; 2], f64)>,
    /// How pictures get that size.
    pub geometries: Vec<(Geometry, f64)>,
    /// How pixels are interpolated.
    pub filters: Vec<(ResizeFilter, f64)>,
    /// What becomes of the values.
    pub colours: Vec<Colour>,
    /// The preprocessing that the user gave, which need not be a product of the parts.
    declared: Option<Preprocessing>,
}

impl Recipe {
    /// The recipe that the user gave.
    pub const DECLARED: Self = Self {
        size: usize::MAX,
        geometry: 0,
        filter: 0,
        colour: 0,
    };
}

/// Sizes that networks without a size of their own are trained on besides 224x224: CIFAR's, and what scripts write.
const SIDES: [(u32, f64); 17] = [
    (224, 60.0),
    (256, 4.0),
    (150, 4.0),
    (128, 4.0),
    (32, 3.0),
    (64, 3.0),
    (299, 2.0),
    (180, 2.0),
    (160, 2.0),
    (200, 2.0),
    (240, 2.0),
    (96, 1.5),
    (100, 1.5),
    (192, 1.5),
    (300, 1.5),
    (48, 1.0),
    (384, 1.0),
];

const UNIT: f32 = 1.0 / 255.0;
const CAFFE: [f32; 3] = [103.939, 116.779, 123.68];
const CAFFE_RGB: [f32; 3] = [123.68, 116.779, 103.939];
const CIFAR_MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];

fn scaled(scale: f32, mean: [f32; 3], std: [f32; 3]) -> ValueRange {
    ValueRange::Scaled { scale, mean, std }
}

impl Space {
    /// Returns the candidates for a file of this framework; `size` is what it says of its pictures' size, and `is_side` tells the
    /// sides that are possible where it says less. A file that `scales` its pictures itself is mostly fed with bytes.
    pub fn new(framework: Framework, size: Option<[u32; 2]>, scales: bool, is_side: impl Fn(u32) -> bool) -> Self {
        let is_keras = framework == Framework::Keras;
        let sizes = match size {
            Some(size) => vec![(size, 1.0)],
            None => {
                let possible = SIDES.iter().filter(|(side, _)| is_side(*side));
                possible.map(|(side, usual)| ([*side; 2], *usual)).collect()
            }
        };
        let either = |keras: f64, torch: f64| if is_keras { keras } else { torch };
        let geometries = vec![
            (Geometry::Stretch, either(90.0, 50.0)),
            (Geometry::ShortSideCrop, either(4.0, 35.0)),
            (Geometry::ShortSideFit, either(4.0, 10.0)),
            (Geometry::StretchCrop, either(2.0, 5.0)),
        ];
        let mut filters = vec![
            (ResizeFilter::Nearest, either(45.0, 3.0)),
            (ResizeFilter::Bilinear, either(12.0, 70.0)),
            (ResizeFilter::BilinearNoAntialias, either(20.0, 4.0)),
            (ResizeFilter::BilinearNoAntialiasRounded, either(12.0, 8.0)),
            (ResizeFilter::Bicubic, either(5.0, 10.0)),
            (ResizeFilter::Lanczos, either(3.0, 5.0)),
        ];
        filters.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self {
            sizes,
            geometries,
            filters,
            colours: colours(is_keras, scales),
            declared: None,
        }
    }

    /// Adds the preprocessing that the user gave as one more recipe.
    pub fn declare(&mut self, preprocessing: Preprocessing) {
        self.declared = Some(preprocessing);
    }

    /// Returns [`Recipe::DECLARED`] if the user gave a preprocessing.
    pub fn declared(&self) -> Option<Recipe> {
        self.declared.map(|_| Recipe::DECLARED)
    }

    /// Returns true if no likelier filter is of its kind: nearest, with antialiasing, or without.
    pub fn is_first_of_its_kind(&self, filter: usize) -> bool {
        let kind = |filter: usize| match self.filters[filter].0 {
            ResizeFilter::Nearest => 0,
            ResizeFilter::Bilinear | ResizeFilter::Bicubic | ResizeFilter::Lanczos => 1,
            ResizeFilter::BilinearNoAntialias | ResizeFilter::BilinearNoAntialiasRounded => 2,
        };
        (0..filter).all(|other| kind(other) != kind(filter))
    }

    /// Returns the likeliest recipe's preprocessing.
    pub fn first(&self) -> Option<Preprocessing> {
        let products = self.count() > usize::from(self.declared.is_some());
        let likeliest = Recipe {
            size: 0,
            geometry: 0,
            filter: 0,
            colour: 0,
        };
        products.then(|| self.preprocessing(likeliest)).or(self.declared)
    }

    /// Returns the number of recipes.
    pub fn count(&self) -> usize {
        let products = self.sizes.len() * self.geometries.len() * self.filters.len() * self.colours.len();
        products + usize::from(self.declared.is_some())
    }

    /// Returns what a recipe does with a picture.
    pub fn preprocessing(&self, recipe: Recipe) -> Preprocessing {
        if let (Recipe::DECLARED, Some(declared)) = (recipe, self.declared) {
            return declared;
        }
        let ([height, width], _) = self.sizes[recipe.size];
        let larger = |side: u32| (side * 8).div_ceil(7);
        let crop = Some([height, width]);
        let (resize, crop) = match self.geometries[recipe.geometry].0 {
            Geometry::Stretch => (Resize::Stretch([height, width]), None),
            Geometry::ShortSideCrop => (Resize::ShortSide(larger(height.max(width))), crop),
            Geometry::ShortSideFit => (Resize::ShortSide(height.max(width)), crop),
            Geometry::StretchCrop => (Resize::Stretch([larger(height), larger(width)]), crop),
        };
        let colour = self.colours[recipe.colour];
        Preprocessing {
            resize: Some(resize),
            filter: self.filters[recipe.filter].0,
            crop,
            channels: colour.channels,
            normalisation: colour.values,
        }
    }

    /// Returns what a picture of this recipe costs to compute, in pictures of 224x224.
    pub fn cost(&self, recipe: Recipe) -> f64 {
        let [height, width] = self.preprocessing(recipe).size().unwrap_or([224, 224]);
        f64::from(height * width) / (224.0 * 224.0)
    }

    /// Returns the logarithm of how usual a recipe is, in any unit.
    pub fn usual(&self, recipe: Recipe) -> f64 {
        if recipe == Recipe::DECLARED {
            let first = |part: Option<f64>| part.unwrap_or(1.0).ln();
            return first(self.sizes.first().map(|size| size.1))
                + first(self.geometries.first().map(|geometry| geometry.1))
                + first(self.filters.first().map(|filter| filter.1))
                + first(self.colours.first().map(|colour| colour.usual));
        }
        let parts = [
            self.sizes[recipe.size].1,
            self.geometries[recipe.geometry].1,
            self.filters[recipe.filter].1,
            self.colours[recipe.colour].usual,
        ];
        parts.iter().map(|part| part.ln()).sum()
    }
}

fn colours(is_keras: bool, scales: bool) -> Vec<Colour> {
    let ValueRange::Scaled { mean, std, .. } = Preset::Torchvision.preprocessing().normalisation else {
        return Vec::new();
    };
    let (zero, one, half) = ([0.0; 3], [1.0; 3], [0.5; 3]);
    let either = |keras: f64, torch: f64| if is_keras { keras } else { torch };
    let values = [
        (
            "ImageNet's mean and deviation",
            scaled(UNIT, mean, std),
            either(4.0, 60.0),
        ),
        ("0 to 1", scaled(UNIT, zero, one), either(45.0, 15.0)),
        ("-1 to 1", scaled(UNIT, half, half), either(5.0, 12.0)),
        (
            "ImageNet's means of blue, green and red",
            scaled(1.0, CAFFE, one),
            either(30.0, 1.0),
        ),
        (
            "ImageNet's means of red, green and blue",
            scaled(1.0, CAFFE_RGB, one),
            either(3.0, 1.0),
        ),
        (
            "0 to 255",
            scaled(1.0, zero, one),
            if scales { 150.0 } else { either(8.0, 3.0) },
        ),
        (
            "means of blue, green and red, then / 255",
            scaled(UNIT, CAFFE.map(|mean| mean / 255.0), one),
            either(2.0, 0.5),
        ),
        (
            "CIFAR's mean and deviation",
            scaled(UNIT, CIFAR_MEAN, [0.2023, 0.1994, 0.2010]),
            either(0.5, 2.0),
        ),
        (
            "CIFAR's mean and exact deviation",
            scaled(UNIT, CIFAR_MEAN, [0.2470, 0.2435, 0.2616]),
            either(0.5, 2.0),
        ),
        ("standardised", ValueRange::Standardised, either(2.0, 1.0)),
    ];
    let mut colours = Vec::new();
    for (name, values, usual) in values {
        let is_caffe = values == scaled(1.0, CAFFE, one) || values == scaled(UNIT, CAFFE.map(|mean| mean / 255.0), one);
        for (channels, share) in [
            (ChannelOrder::Rgb, if is_caffe { 0.12 } else { 0.85 }),
            (ChannelOrder::Bgr, if is_caffe { 0.85 } else { 0.12 }),
            (ChannelOrder::Grey, 0.03),
        ] {
            colours.push(Colour {
                name,
                channels,
                values,
                usual: usual * share,
            });
        }
    }
    colours.sort_by(|a, b| b.usual.total_cmp(&a.usual));
    colours
}
