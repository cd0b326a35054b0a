//! Photographs to ask about.

/// The photographs of `images/`, so that the program needs no files.
pub const PHOTOGRAPHS: [(&str, &[u8]); 4] = [
    ("chelsea.png", include_bytes!("../../../images/chelsea.png")),
    ("coffee.png", include_bytes!("../../../images/coffee.png")),
    ("grace_hopper.jpg", include_bytes!("../../../images/grace_hopper.jpg")),
    ("rocket.jpg", include_bytes!("../../../images/rocket.jpg")),
];
