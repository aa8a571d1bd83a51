import java.io.ByteArrayInputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.util.Properties;
import java.util.TreeMap;

/** Reads files with java.util.Properties: a length and that many bytes in, what they mean out. */
public class Load {
    public static void main(String[] arguments) throws IOException {
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream out = new DataOutputStream(System.out);
        while (true) {
            byte[] file;
            try {
                file = in.readNBytes(in.readInt());
            } catch (EOFException end) {
                return;
            }
            Properties properties = new Properties();
            try {
                properties.load(new ByteArrayInputStream(file));
                out.writeInt(properties.size());
                for (Object name : new TreeMap<>(properties).keySet()) {
                    String key = (String) name;
                    text(out, key);
                    text(out, properties.getProperty(key));
                    text(out, integer(properties.getProperty(key)));
                }
            } catch (IllegalArgumentException malformed) {
                out.writeInt(-1);
            }
            out.flush();
        }
    }

    private static String integer(String text) {
        try {
            return Integer.toString(Integer.parseInt(text));
        } catch (NumberFormatException none) {
            return "";
        }
    }

    private static void text(DataOutputStream out, String text) throws IOException {
        out.writeInt(text.length());
        out.writeChars(text);
    }
}
