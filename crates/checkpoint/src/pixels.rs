//! A picture's channels, as linear functions of those that a network is fed.

use headswap_spec::ChannelTransform;

/// A channel: a channel of the picture, times `scale`, plus `shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pixel {
    pub channel: usize,
    pub scale: f64,
    pub shift: f64,
}

/// The channels of a picture as it is fed.
pub(crate) fn fed() -> Vec<Pixel> {
    let channels = 0..3;
    channels
        .map(|channel| Pixel {
            channel,
            scale: 1.0,
            shift: 0.0,
        })
        .collect()
}

/// Returns what was computed of the three channels, if it is their own order or the reverse.
pub(crate) fn transform(pixels: &[Pixel]) -> Option<ChannelTransform> {
    let [first, second, third] = pixels else { return None };
    let reversed = match [first.channel, second.channel, third.channel] {
        [0, 1, 2] => false,
        [2, 1, 0] => true,
        _ => return None,
    };
    Some(ChannelTransform {
        reversed,
        scale: [first.scale, second.scale, third.scale],
        shift: [first.shift, second.shift, third.shift],
    })
}
