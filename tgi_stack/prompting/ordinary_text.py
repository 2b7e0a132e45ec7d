"""How many tokens ordinary text takes in a vocabulary: prose in several scripts, and figures.

Vocabularies differ by script more than by text. In Qwen's an English letter takes a quarter of a token and a
Tamil one more than a whole token; in that of `tiny`, which holds English words, a Chinese one takes three.
"""

from __future__ import annotations

from tgi_stack.prompting.tokenizer import Tokenizer

# One sentence in each script: a mug for hot drinks, used at home or in the office.
SAMPLES = {
    "English": "A red ceramic mug for hot drinks, used at home or in the office. It is easy to clean.",
    "German": "Ein roter Becher aus Keramik für heiße Getränke, für zu Hause oder das Büro.",
    "Vietnamese": "Một chiếc cốc sứ màu đỏ dùng để uống đồ nóng, ở nhà hoặc ở văn phòng.",
    "Russian": "Красная керамическая кружка для горячих напитков, для дома или офиса.",
    "Greek": "Μια κόκκινη κεραμική κούπα για ζεστά ροφήματα, για το σπίτι ή το γραφείο.",  # noqa: RUF001
    "Georgian": "წითელი კერამიკული ფინჯანი ცხელი სასმელებისთვის, სახლში ან ოფისში.",
    "Hebrew": "ספל קרמיקה אדום למשקאות חמים, לשימוש בבית או במשרד.",
    "Arabic": "كوب سيراميك أحمر للمشروبات الساخنة، يستخدم في المنزل أو في المكتب.",
    "Hindi": "गर्म पेय के लिए लाल सिरेमिक मग, घर या दफ़्तर में इस्तेमाल के लिए।",
    "Tamil": "சூடான பானங்களுக்கான சிவப்பு பீங்கான் குவளை, வீட்டில் அல்லது அலுவலகத்தில் பயன்படுத்தலாம்.",
    "Thai": "แก้วเซรามิกสีแดงสำหรับเครื่องดื่มร้อน ใช้ที่บ้านหรือที่ทำงาน",
    "Chinese": "红色陶瓷马克杯，适合在家中或办公室饮用热饮。它容易清洗。",  # noqa: RUF001
    "Japanese": "温かい飲み物のための赤い陶器のマグカップ。家庭やオフィスで使われます。",
    "Korean": "따뜻한 음료를 위한 빨간 도자기 머그잔으로, 집이나 사무실에서 사용합니다.",
    "figures": "350 ml, 12.5 x 9 cm, 4006381333931",
}


def tokens_a_character(tokenizer: Tokenizer) -> float:
    """What ordinary text takes in the script that the vocabulary knows least."""
    return max(len(tokenizer.encode(text)) / len(text) for text in SAMPLES.values())
